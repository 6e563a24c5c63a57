"""The optimizer Lion, which torch has not, and DeepSpeed for compilers and GPUs alone."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """Steps every weight by the learning rate, in the direction of a sign (Chen et al., "Symbolic
    Discovery of Optimization Algorithms", arXiv 2302.06675, Algorithm 2):

        w ← w - lr · (sign(β₁ m + (1 - β₁) g) + weight_decay · w);  m ← β₂ m + (1 - β₂) g

    It keeps one moment m, AdamW two. The paper's learning rates are 3 to 10 times smaller than
    AdamW's, its weight decays as much larger (section 5).

    Args:
        params: the parameters or their groups, as other optimizers take them.
        lr: learning rate.
        betas: β₁ and β₂, each in [0, 1).
        weight_decay: decoupled, as AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Steps all weights that have a gradient; returns what the closure gave, if there is one.

        Args:
            closure: evaluates the loss again, with gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def _step_one(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state, gradient, (beta1, beta2) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        moment = state["exp_avg"]
        direction = moment.lerp(gradient, 1 - beta1).sign_()
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"])
        moment.lerp_(gradient, 1 - beta2)
