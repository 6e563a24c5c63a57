"""What the ranks of a run tell each other."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from pipelines.errors import UserError

T = TypeVar("T")


def gathered(value: T) -> list[T]:
    """What every rank has to say, by rank. All of them must call it."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(function: Callable[[], T]) -> T:
    """What a function says on rank 0, the only one that calls it. All ranks must call this.

    Raises:
        UserError: the function's own, on every rank.
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
