"""Measures what pruning has to bring down: operations, parameters, bytes or milliseconds."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.flop_counter import FlopCounterMode

from srmodels.checks import check_one_of, check_positive
from srmodels.edge.target import ExportSettings, make_target
from srmodels.latency import time_by_turns
from srmodels.network import SRNetwork

#: What can be limited, by name.
MEASURES = ("macs", "parameters", "bytes", "milliseconds")
#: Runs of an artifact whose median counts.
_RUNS = 15


@dataclass(frozen=True)
class Budget:
    """The cost that a pruned network may have.

    Attributes:
        measure: `macs` (of one tile, in 10^9), `parameters`, `bytes` (of the artifact) or
            `milliseconds` (median for one tile, one thread, on this machine).
        keep: the share of the network's own cost that may remain, in (0, 1).
        at_most: the cost that may remain; it takes the place of `keep`.
        target: the artifact that is made for `bytes` and `milliseconds`, an edge target's name.
        tile: side of the LR tile, pixels.

    Raises:
        ValueError: there is no such measure, or a share or a limit that means nothing.
    """

    measure: str = "macs"
    keep: float = 0.5
    at_most: float | None = None
    target: str = "onnx_fp32"
    tile: int = 128

    def __post_init__(self) -> None:
        check_one_of("measure", self.measure, MEASURES)
        if not 0 < self.keep < 1:
            raise ValueError(
                f"keep is the share that remains, above 0 and below 1, not {self.keep}."
            )
        check_positive("tile", self.tile)
        if self.at_most is not None:
            check_positive("at_most", self.at_most)

    @property
    def runs(self) -> bool:
        """True where the cost is that of an artifact, for which weights need values."""
        return self.measure in ("bytes", "milliseconds")

    def limit(self, cost: float) -> float:
        """Returns the cost that may remain of this one."""
        return self.at_most if self.at_most is not None else self.keep * cost

    def cost(self, network: SRNetwork) -> float:
        """Returns the cost of fused networks, in the measure's unit."""
        shipped = network.inference_modules().values()
        if self.measure == "parameters":
            return float(sum(p.numel() for module in shipped for p in module.parameters()))
        if self.measure == "macs":
            tile = torch.zeros(1, 3, self.tile, self.tile, device=next(network.parameters()).device)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network.eval()(tile)
            return float(counter.get_total_flops() / 2e9)
        return self._of_artifact(network)

    def describe(self, cost: float) -> str:
        """Returns a cost for people."""
        if self.measure == "macs":
            return f"{cost:.3f} GMACs at {self.tile} px"
        if self.measure == "milliseconds":
            return f"{cost:.1f} ms at {self.tile} px ({self.target})"
        return f"{cost:,.0f} {self.measure}"

    def _of_artifact(self, network: SRNetwork) -> float:
        target, tile = make_target(self.target), torch.zeros(1, 3, self.tile, self.tile)
        if target.quantises:
            raise ValueError(
                f"the budget's target {self.target} is fitted to images, of which pruning has "
                "none: name one in fp32 or fp16."
            )
        if target.simulated and self.measure == "milliseconds":
            raise ValueError(f"{self.target} cannot be timed on this machine: name another target.")
        with TemporaryDirectory() as folder:
            path = Path(folder) / target.file
            path.parent.mkdir(exist_ok=True)
            target.export(network, path, ExportSettings(tile=self.tile))
            if self.measure == "bytes":
                return float(sum(Path(folder, name).stat().st_size for name in target.files))
            runner = target.load(path, threads=1)
            times = time_by_turns({"run": lambda: runner.run(tile)}, _RUNS, warm_up=3)
        return statistics.median(times["run"])
