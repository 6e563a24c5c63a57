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
