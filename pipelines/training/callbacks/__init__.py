"""Callbacks of a training run, one for each concern."""

from pipelines.training.callbacks.checkpointing import CheckpointCallback
from pipelines.training.callbacks.ema import EMACallback
from pipelines.training.callbacks.guard import NonFiniteGuard
from pipelines.training.callbacks.metrics import MetricsCallback
from pipelines.training.callbacks.preemption import PreemptionCallback
from pipelines.training.callbacks.profiler import ProfilerCallback
from pipelines.training.callbacks.progress import ProgressCallback
from pipelines.training.callbacks.validation import ValidationCallback

__all__ = [
    "CheckpointCallback",
    "EMACallback",
    "MetricsCallback",
    "NonFiniteGuard",
    "PreemptionCallback",
    "ProfilerCallback",
    "ProgressCallback",
    "ValidationCallback",
]
