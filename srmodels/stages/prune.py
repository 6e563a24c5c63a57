"""The stage that makes any network narrower, and finetunes what is left of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from srmodels.compression.budget import Budget
from srmodels.compression.prune import Pruning, prune
from srmodels.network import SRNetwork
from srmodels.stages.pixel import PixelStage

#: Samples that `taylor` judges channels by.
_NUM_SAMPLES = 16


class PruneStage(PixelStage):
    """Removes the least important channels at its start, then trains what is left as PixelStage.

    Several of these stages, one after the other, prune a little and train in turns. A stage of the
    kind `distill` after it takes a teacher's images.

    Options: those of `Pruning`, and those of `Budget`, which say how far it goes.

    Raises:
        ValueError: impossible options, networks that are quantised already, or that cannot be made
            so small.
    """

    @dataclass
    class Options(PixelStage.Options):
        networks: list[str] = field(default_factory=list)
        importance: str = "lamp"
        scope: str = "global"
        round_to: int = 4
        max_removed: float = 0.75
        measure: str = "macs"
        keep: float = 0.5
        at_most: float | None = None
        target: str = "onnx_fp32"
        tile: int = 128

    options: Options

    def __init__(self, network: SRNetwork, options: Options) -> None:
        super().__init__(network, options)
        network.check_compressible()
        if network.quantised:
            raise ValueError(
                "these networks are quantised already: prune first, and quantise what is left."
            )
        self.pruning = Pruning(
            options.networks,
            options.importance,
            options.scope,
            options.round_to,
            options.max_removed,
        )
        self.budget = Budget(
            options.measure, options.keep, options.at_most, options.target, options.tile
        )

    @property
    def num_samples(self) -> int:
        return _NUM_SAMPLES if self.pruning.importance == "taylor" else 0

    def start(self, x_l: Tensor, x_h: Tensor) -> Sequence[str]:
        done = prune(self.network, self.pruning, self.budget, x_l, x_h, agree=_first_ranks)
        return [done]


def _first_ranks(cost: float) -> float:
    """Returns the cost that rank 0 measured. Clocks differ, and all ranks must choose alike."""
    if not dist.is_initialized():
        return cost
    value = torch.tensor([cost], dtype=torch.float64)
    dist.broadcast(value, src=0)
    return float(value)
