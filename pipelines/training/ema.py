"""Averages weights exponentially during training, in fp32, by their half-life."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class EMA:
    """The exponential moving average of parameters and buffers.

    Under ZeRO 3 a rank holds a slice of each parameter. There it averages its slices.

    Args:
        tensors: the tensors that training changes, by their names in the network's state dict.
        half_life: number of steps after which the influence of a value has halved.
    """

    def __init__(self, tensors: Mapping[str, Tensor], half_life: float) -> None:
        self.decay = 0.5 ** (1.0 / half_life)
        self.live = dict(tensors)
        self.average = {n: _held(p).detach().float().clone() for n, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Adds the present values to the average."""
        torch._foreach_lerp_(
            list(self.average.values()),
            [_held(p).detach().float() for p in self.live.values()],
            1.0 - self.decay,
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averages in the place of the live weights inside the block.

        Afterwards the module has its own tensors back, since optimizers hold views of them.
        """
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
        """Returns the averages as whole fp32 tensors in main memory, in contiguous order.

        Every rank must call it. Rank 0 gets all tensors, and the others get an empty dict.
        """
        state = {}
        for name, average in self.average.items():
            whole = _gathered(average, self.live[name])
            if dist.get_rank() == 0:
                state[name] = whole.cpu().contiguous()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` returned on rank 0, at any number of ranks."""
        assert state.keys() == self.average.keys()
        for name, value in state.items():
            self.average[name].copy_(_slice(value, self.live[name]))


# DeepSpeed adds attributes to a parameter under ZeRO 3 (`ds_…`), and no type declares them.
def _held(parameter: Any) -> Tensor:
    """Returns this rank's share of a parameter: a flat, padded slice under ZeRO 3, else all."""
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
