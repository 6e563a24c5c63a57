"""Checks that the configurations of systems share."""

from collections.abc import Collection
from dataclasses import fields, is_dataclass


def check_positive(key: str, value: object, but: Collection[str] = ()) -> None:
    """Every number in it is a size, a count or a gain: none of them can be zero or less.

    Args:
        key: where it stands in a recipe.
        value: a number, a list, or a dataclass; all else passes.
        but: the fields of dataclasses that are not looked at.

    Raises:
        ValueError: one is.
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
    """
    Raises:
        ValueError: the value is none of these.
    """
    if value not in valid:
        raise ValueError(f"{key} is {value!r}: use one of {', '.join(map(str, valid))}.")
