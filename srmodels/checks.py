"""Checks that configurations share: each refuses a value in one sentence that names its key."""

import math
import reprlib
from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = 12


def shortened(value: object) -> str:
    """Returns a value as messages repeat it: as Python writes it, without what makes it long."""
    return _SHORT.repr(value)


def check_positive(key: str, value: object, but: Collection[str] = ()) -> None:
    """Refuses numbers of zero or less among sizes, counts and gains.

    Args:
        key: where the value stands in a recipe.
        value: a number, a list, or a dataclass, each looked into; all else passes.
        but: the fields of dataclasses that are not looked at.

    Raises:
        ValueError: there is one.
    """
    if is_dataclass(value):
        for item in fields(value):
            if item.name not in but:
                check_positive(f"{key}.{item.name}", getattr(value, item.name), but)
    elif isinstance(value, list):
        for number, element in enumerate(value):
            check_positive(f"{key}[{number}]", element, but)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
        raise ValueError(f"{key} must be greater than 0, not {value}.")


def check_one_of(key: str, value: object, valid: Collection[object]) -> None:
    """Refuses a value that is none of `valid`.

    Raises:
        ValueError: it is none of them.
    """
    if value not in valid:
        raise ValueError(f"{key} is {shortened(value)}: use one of {', '.join(map(str, valid))}.")


def check_not_negative(key: str, value: float) -> None:
    """Refuses a number below 0.

    Raises:
        ValueError: it is one.
    """
    if value < 0:
        raise ValueError(f"{key} must be at least 0, not {value}.")


def check_ascending(key: str, value: list[float], low: float, high: float) -> None:
    """Refuses all but two ascending numbers from `low` to `high`.

    Raises:
        ValueError: there are more or fewer, or they are others.
    """
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ValueError(
            f"{key} is {_plain(value)}: set it to two ascending numbers "
            f"from {low:g} to {high:g}, e.g. [{low:g}, {high:g}]."
        )


def check_probability(key: str, value: float) -> None:
    """Refuses all but numbers from 0 to 1.

    Raises:
        ValueError: it is another.
    """
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{key} is {value}: set it to a probability from 0 to 1.")


def check_odds(key: str, value: list[float], names: Sequence[str]) -> None:
    """Refuses all but one non-negative share for each of `names`, one of them above 0.

    Raises:
        ValueError: there are more or fewer, one is negative or not finite, or all are 0.
    """
    finite = all(math.isfinite(share) and share >= 0 for share in value)
    if len(value) != len(names) or not finite or not math.fsum(value) > 0:
        raise ValueError(
            f"{key} is {_plain(value)}: set it to {len(names)} non-negative shares "
            f"({', '.join(names)}) that are not all 0."
        )


def check_kernel_sizes(key: str, value: list[int], largest: int) -> None:
    """Refuses all but odd sizes from 3 to `largest`.

    Raises:
        ValueError: there is another, or none at all.
    """
    if not value or any(size % 2 == 0 or not 3 <= size <= largest for size in value):
        raise ValueError(
            f"{key} is {_plain(value)}: set it to one or more odd sizes from 3 to {largest}."
        )


def _plain(value: list[float] | list[int]) -> str:
    return shortened(list(value))
