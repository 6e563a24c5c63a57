"""Shows the present values of a training to Prometheus, through Ray's agent on the node."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.training.stage_run import StageRun

#: The names that Prometheus reads, without Ray's prefix, and what they are. Each has the labels
#: `run`, `stage` and `model`.
GAUGES = {
    "srmill_train_step": "number of the last step that was recorded",
    "srmill_train_steps": "number of steps that the run will have",
    "srmill_train_loss": "a loss, the mean over ranks and steps; label loss",
    "srmill_train_gradient_norm": "norm of the gradient before it is clipped; label turn",
    "srmill_train_learning_rate": "a learning rate; label group",
    "srmill_train_samples_per_second": "samples per second, all ranks together",
    "srmill_train_steps_per_second": "steps per second",
    "srmill_train_data_wait_ratio": "share of the time that rank 0 waited for data, 0 to 1",
    "srmill_train_mfu_ratio": "share of the devices' peak FLOP/s that the model uses, 0 to 1",
    "srmill_train_memory_gib": "GiB of the rank that needs most",
    "srmill_train_skipped_steps": "steps of the run without an update, since a gradient was not "
    "finite",
    "srmill_validation_score": "a score of the validation; label score",
}
COUNTERS = {
    "srmill_data_fetched_bytes_total": "bytes of shards that ranks fetched from s3://",
    "srmill_data_fetches_total": "shards that ranks fetched from s3://",
    "srmill_data_cache_hits_total": "times that a rank found a shard in the cache of its node",
    "srmill_data_failed_attempts_total": "attempts on a network that failed",
}
_LABELS = ("run", "stage", "model")
#: The label of those names that have one of their own.
_OWN = {
    "srmill_train_loss": "loss",
    "srmill_train_gradient_norm": "turn",
    "srmill_train_learning_rate": "group",
    "srmill_validation_score": "score",
}
#: The names of records, and those of the gauges that take their values.
_PLAIN = {
    "speed/samples_per_second": "srmill_train_samples_per_second",
    "speed/data_wait_share": "srmill_train_data_wait_ratio",
    "speed/mfu": "srmill_train_mfu_ratio",
    "memory/gpu_peak_gib": "srmill_train_memory_gib",
    "memory/resident_gib": "srmill_train_memory_gib",
    "steps/skipped": "srmill_train_skipped_steps",
}


class RayRecorder:
    """A recorder of the newest values, as metrics of Ray. It keeps no pictures and no files.

    Ray's agent forgets the gauges of a process soon after its end, and keeps the counters.

    Args:
        labels: the values of `run`, `stage` and `model`.
        steps: the number of steps that the run will have.
        batch_size: samples of a step over all ranks.
    """

    def __init__(self, labels: Mapping[str, str], steps: int, batch_size: int) -> None:
        self._labels, self._steps, self._batch_size = dict(labels), steps, batch_size
        self._metrics: dict[str, Any] = {}
        self._counted: dict[str, float] = {}

    @classmethod
    def of(cls, run: StageRun) -> "RayRecorder":
        """Returns the recorder of a run."""
        labels = {"run": run.name, "stage": run.stage, "model": run.config.mlflow.model or ""}
        return cls(labels, run.train.steps, run.train.batch_size)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._set("srmill_train_step", step)
        self._set("srmill_train_steps", self._steps)
        for name, value in values.items():
            self._take(name, value)

    def _take(self, name: str, value: float) -> None:
        room, _, rest = name.partition("/")
        if name in _PLAIN:
            self._set(_PLAIN[name], value)
        elif room == "data":
            self._count(f"srmill_data_{rest}_total", value)
        elif room == "learning_rate":
            self._set("srmill_train_learning_rate", value, rest)
        elif room == "validation":
            self._set("srmill_validation_score", value, rest)
        elif name.endswith("/gradient_norm"):
            self._set("srmill_train_gradient_norm", value, rest.rpartition("/")[0])
        elif room == "train":
            self._set("srmill_train_loss", value, rest)
        if name == "speed/samples_per_second":
            self._set("srmill_train_steps_per_second", value / self._batch_size)

    def _set(self, name: str, value: float, own: str | None = None) -> None:
        from ray.util.metrics import Gauge

        label = _OWN.get(name)
        if name not in self._metrics:
            keys = (*_LABELS, *([label] if label else []))
            self._metrics[name] = Gauge(name, GAUGES[name], tag_keys=keys)
        labels = self._labels | ({label: own or ""} if label else {})
        self._metrics[name].set(value, labels)

    def _count(self, name: str, total: float) -> None:
        from ray.util.metrics import Counter

        if name not in self._metrics:
            # Ray adds the end of the name itself.
            plain = name.removesuffix("_total")
            self._metrics[name] = Counter(plain, COUNTERS[name], tag_keys=_LABELS)
        more = total - self._counted.get(name, 0.0)
        self._counted[name] = total
        if more > 0:
            self._metrics[name].inc(more, self._labels)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        pass

    def file(self, path: Path, folder: str) -> None:
        pass

    def close(self) -> None:
        pass
