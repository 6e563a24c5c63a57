"""Exponential moving average of the trained weights, in fp32, by half-life."""

import torch
from torch import Tensor, nn


class EMA:
    """Averages a module's trainable parameters.

    Args:
        module: whose parameters are averaged; names are those of its state dict.
        half_life: steps after which a weight's influence has halved.
    """

    def __init__(self, module: nn.Module, half_life: float) -> None:
        self.decay = 0.5 ** (1.0 / half_life)
        self.live = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().float().clone() for n, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are now."""
        torch._foreach_lerp_(
            list(self.average.values()),
            [p.detach().float() for p in self.live.values()],
            1.0 - self.decay,
        )

    def state_dict(self) -> dict[str, Tensor]:
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        assert state.keys() == self.average.keys()
        for name, value in state.items():
            self.average[name].copy_(value)
