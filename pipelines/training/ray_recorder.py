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
LABELS = ("run", "stage", "model")
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


def labels_of(run: StageRun) -> dict[str, str]:
    """Returns the values of `LABELS` for a run."""
    return {"run": run.name, "stage": run.stage, "model": run.config.mlflow.model or ""}


class RayRecorder:
    """A recorder of the newest values, as metrics of Ray. It keeps no pictures and no files.

    Ray's agent forgets the gauges of a process soon after its end.

    Args:
        labels: the values of `run`, `stage` and `model`.
        steps: the number of steps that the run will have.
        batch_size: samples of a step over all ranks.
        first_step: the number of steps that are done already. It is shown at once, so that a rank
            that hangs before its first record is seen, too.
    """

    def __init__(
        self, labels: Mapping[str, str], steps: int, batch_size: int, first_step: int = 0
    ) -> None:
        self._labels, self._steps, self._batch_size = dict(labels), steps, batch_size
        self._metrics: dict[str, Any] = {}
        self._progress(first_step)

    @classmethod
    def of(cls, run: StageRun, first_step: int) -> "RayRecorder":
        """Returns the recorder of a run."""
        return cls(labels_of(run), run.train.steps, run.train.batch_size, first_step)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._progress(step)
        for name, value in values.items():
            self._take(name, value)

    def _progress(self, step: int) -> None:
        self._set("srmill_train_step", step)
        self._set("srmill_train_steps", self._steps)

    def _take(self, name: str, value: float) -> None:
        room, _, rest = name.partition("/")
        if name in _PLAIN:
            self._set(_PLAIN[name], value)
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
            keys = (*LABELS, *([label] if label else []))
            self._metrics[name] = Gauge(name, GAUGES[name], tag_keys=keys)
        labels = self._labels | ({label: own or ""} if label else {})
        self._metrics[name].set(value, labels)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        pass

    def file(self, path: Path, folder: str) -> None:
        pass

    def close(self) -> None:
        pass
