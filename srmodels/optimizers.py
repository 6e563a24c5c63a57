"""The optimizers that a recipe can name, and what each keeps of every weight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from srmodels.lion import Lion

#: SGD's momentum: the usual one (Sutskever et al., ICML 2013).
MOMENTUM = 0.9


@dataclass(frozen=True)
class OptimizerKind:
    """The making of an optimizer, and its size.

    Attributes:
        create: makes it for parameter groups (dicts with `params`, `name` and `weight_decay`), a
            learning rate, and whether all of them lie on a GPU.
        num_moments: numbers that it keeps for each weight.
    """

    create: Callable[[list[dict[str, Any]], float, bool], Optimizer]
    num_moments: int

    @property
    def can_be_reshaped(self) -> bool:
        """True if a ZeRO checkpoint can go on at another number of ranks: DeepSpeed's converter
        (`checkpoint/ds_to_universal.py`) knows Adam's two moments, and no other state."""
        return self.num_moments == 2


#: By the names that `train.optimizer` knows. Weight decay is decoupled (AdamW, Lion), or added to
#: the gradient (Adam, SGD), as each was published.
OPTIMIZERS = {
    "adamw": OptimizerKind(
        lambda groups, lr, cuda: torch.optim.AdamW(groups, lr=lr, fused=cuda), num_moments=2
    ),
    "adam": OptimizerKind(
        lambda groups, lr, cuda: torch.optim.Adam(groups, lr=lr, fused=cuda), num_moments=2
    ),
    "lion": OptimizerKind(lambda groups, lr, cuda: Lion(groups, lr=lr), num_moments=1),
    "sgd": OptimizerKind(
        lambda groups, lr, cuda: torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, fused=cuda),
        num_moments=1,
    ),
}


def fit_state(optimizer: Optimizer) -> None:
    """Lays out the loaded state of each weight as the fused kernels need it.

    They read a moment in the order of its weight's memory, without a look at its strides. So each
    moment gets the strides of its weight, which may be `channels_last` when the saved one was not.
    The step counter gets a tensor of its own, fp32 and on the weight's device: after a universal
    checkpoint all weights may share one.
    """
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if name == "step":
                device = weight.device if fused else value.device
                state[name] = value.to(device, torch.float32, copy=True)
            elif value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight).copy_(value)
