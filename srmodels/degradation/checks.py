"""What the options dataclasses refuse, in one sentence that names the field."""

import math


def ascending(name: str, value: list[float], low: float, high: float) -> None:
    """`value` must be two ascending numbers within `low`–`high`."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise ValueError(
            f"{name} is {_plain(value)}: set it to two ascending numbers "
            f"from {low:g} to {high:g}, e.g. [{low:g}, {high:g}]."
        )


def probability(name: str, value: float) -> None:
    """`value` must be within 0–1."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}: set it to a probability from 0 to 1.")


def odds(name: str, value: list[float], names: tuple[str, ...]) -> None:
    """`value` must be one non-negative share for each of `names`, not all 0."""
    finite = all(math.isfinite(share) and share >= 0 for share in value)
    if len(value) != len(names) or not finite or not math.fsum(value) > 0:
        raise ValueError(
            f"{name} is {_plain(value)}: set it to {len(names)} non-negative shares "
            f"({', '.join(names)}) that are not all 0."
        )


def kernel_sizes(name: str, value: list[int], largest: int) -> None:
    """`value` must be odd sizes within 3–`largest`."""
    if not value or any(size % 2 == 0 or not 3 <= size <= largest for size in value):
        raise ValueError(
            f"{name} is {_plain(value)}: set it to one or more odd sizes from 3 to {largest}."
        )


def _plain(value: list[float] | list[int]) -> str:
    return str(list(value))
