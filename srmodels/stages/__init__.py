"""Training programs that systems share."""

from collections.abc import Mapping

from srmodels.stage import Stage
from srmodels.stages.distill import DistillStage
from srmodels.stages.pixel import PixelStage
from srmodels.stages.prune import PruneStage
from srmodels.stages.quantize import QuantizeStage

#: By kind: the stages that every system has.
SHARED_STAGES: Mapping[str, type[Stage]] = {
    "distill": DistillStage,
    "pixel": PixelStage,
    "prune": PruneStage,
    "quantize": QuantizeStage,
}

__all__ = ["SHARED_STAGES", "DistillStage", "PixelStage", "PruneStage", "QuantizeStage"]
