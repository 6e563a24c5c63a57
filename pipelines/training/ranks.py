"""Exchanges values between the ranks of a run."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from pipelines.errors import UserError

T = TypeVar("T")


def gathered(value: T) -> list[T]:
    """Returns the values of all ranks, in the order of the ranks. Every rank must call it."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(function: Callable[[], T]) -> T:
    """Calls a function on rank 0, and returns its result on every rank. Every rank must call it.

    Args:
        function: its result can be pickled.

    Raises:
        UserError: the function raised it; every rank raises it with the same message.
    """
    said: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            said[0] = function()
        except UserError as error:
            said[1] = str(error)
    dist.broadcast_object_list(said)
    if said[1] is not None:
        raise UserError(said[1])
    value: T = said[0]
    return value
