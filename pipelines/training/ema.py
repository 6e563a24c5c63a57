"""Exponential moving average of what training changes, in fp32, by half-life."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class EMA:
    """Averages parameters and buffers; under ZeRO 3, where a rank holds a slice of each parameter,
    the slices.

    Args:
        tensors: those that training changes, by their names in the network's state dict.
        half_life: steps after which a weight's influence has halved.
    """

    def __init__(self, tensors: Mapping[str, Tensor], half_life: float) -> None:
        self.decay = 0.5 ** (1.0 / half_life)
        self.live = dict(tensors)
        self.average = {n: _held(p).detach().float().clone() for n, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are now."""
        torch._foreach_lerp_(
            list(self.average.values()),
            [_held(p).detach().float() for p in self.live.values()],
            1.0 - self.decay,
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module computes with the averaged weights; then it has its live ones back, the very
        tensors, which optimizers hold views of."""
        held = {name: _held(parameter) for name, parameter in self.live.items()}
        live = {name: tensor.data for name, tensor in held.items()}
        try:
            for name, tensor in held.items():
                tensor.data = self.average[name].to(tensor.dtype)
            yield
        finally:
            for name, tensor in held.items():
                tensor.data = live[name]

    def state_dict(self) -> dict[str, Tensor]:
        """Whole tensors in main memory, in the usual memory order. Every rank must call it; rank 0
        gets them, the others nothing."""
        state = {}
        for name, average in self.average.items():
            whole = _gathered(average, self.live[name])
            if dist.get_rank() == 0:
                state[name] = whole.cpu().contiguous()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse, at any number of ranks."""
        assert state.keys() == self.average.keys()
        for name, value in state.items():
            self.average[name].copy_(_slice(value, self.live[name]))


# What DeepSpeed adds to a parameter under ZeRO 3 (`ds_…`) is known to nobody's types.
def _held(parameter: Any) -> Tensor:
    """What this rank holds of a parameter: a flat, padded slice under ZeRO 3, else all of it."""
    return getattr(parameter, "ds_tensor", parameter)


def _gathered(value: Tensor, parameter: Any) -> Tensor:
    if not hasattr(parameter, "ds_tensor"):
        return value
    slices = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(slices, value)
    return torch.cat(slices)[: parameter.ds_numel].view(parameter.ds_shape)


def _slice(value: Tensor, parameter: Any) -> Tensor:
    if not hasattr(parameter, "ds_tensor"):
        return value
    size = parameter.ds_tensor.numel()
    flat = nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    return flat.narrow(0, size * dist.get_rank(), size)
