"""Training programs that systems share."""

from collections.abc import Mapping

from srmodels.stage import Stage
from srmodels.stages.distill import DistillStage
from srmodels.stages.pixel import PixelStage

#: By kind: the stages that every system has.
SHARED_STAGES: Mapping[str, type[Stage]] = {"distill": DistillStage, "pixel": PixelStage}

__all__ = ["SHARED_STAGES", "DistillStage", "PixelStage"]
