"""Measures a registered version on the gate's frozen benchmark, once, and keeps its scores.

They lie in MLflow, among the artifacts of the run that the version came of, in the folder `gate`,
under a name that says what was measured. So a later gate finds them, on any machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError, listing
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.evaluate import choose_metrics
from pipelines.evaluation.frozen import measure_model
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.summary import metric_facts
from pipelines.models.bundle import Bundle
from pipelines.models.facts import MetricFacts
from pipelines.models.load import load_model
from pipelines.registry.evidence import Evidence
from pipelines.storage.digests import digest
from pipelines.storage.typed import Document, read_typed, to_json
from srmodels.metrics.suite import Metric

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: The gate's folder among the artifacts of the run that a version came of.
FOLDER = "gate"
#: The model's name among the scores.
_MODEL = "model"


@dataclass(frozen=True)
class Measured(Document):
    """The scores of a version, and of bicubic, on the gate's sets; see `Evidence`."""

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it from the run's artifacts, and the gate measures anew"

    weights_sha256: str
    metrics: dict[str, MetricFacts]
    sets: dict[str, str]
    images: list[ImageResult]


@dataclass(frozen=True)
class Measurer:
    """Finds or makes the evidence of versions on the gate's sets.

    Attributes:
        name: the registered model.
        benchmarks: the gate's sets; without any, all that a bundle carries decides.
    """

    config: Config
    client: "MlflowClient"
    name: str
    benchmarks: Sequence[Benchmark]

    def evidence(
        self, version: str, bundle: Bundle, metrics: Mapping[str, MetricFacts] | None = None
    ) -> Evidence:
        """Returns a version's evidence: that of its bundle, else what an earlier gate has kept,
        else what it measures now, and keeps.

        Args:
            bundle: the version's bundle.
            metrics: those that it must have been measured by, by label.

        Raises:
            UserError: it cannot be measured, what was kept is damaged, or MLflow fails.
        """
        own = Evidence.of(bundle)
        if not self.benchmarks:
            return own
        identities = [benchmark.identity for benchmark in self.benchmarks]
        if own.covers(identities, metrics or {}):
            return own.on(identities)
        found = self._kept(version, bundle) or self._measure(version, bundle)
        return Evidence(found.metrics, found.sets, _MODEL, found.images)

    def _kept(self, version: str, bundle: Bundle) -> Measured | None:
        run_id, name = self._run(version), self._file(bundle)
        files = [file.path for file in self.client.list_artifacts(run_id, FOLDER)]
        if name not in files:
            return None
        with TemporaryDirectory(prefix="srmill-") as folder:
            path = Path(self.client.download_artifacts(run_id, name, folder))
            return read_typed(Measured, path.read_bytes(), f"{name} of run {run_id}")

    def _measure(self, version: str, bundle: Bundle) -> Measured:
        sets = {benchmark.name: benchmark.identity for benchmark in self.benchmarks}
        print(
            f"Measuring {self.name} version {version} on {listing(sets)}, where it was not "
            "measured yet …",
            flush=True,
        )
        model = load_model(ModelReference(Kind.BUNDLE, str(bundle.path)), self.config)
        metrics, border = self._metrics(), self.config.crop_border
        images = [
            image if image.method == BICUBIC else replace(image, method=_MODEL)
            for image in measure_model(self.config, model, self.benchmarks, metrics)
        ]
        facts = {label: metric_facts(metric, border) for label, metric in metrics.items()}
        found = Measured(bundle.facts.weights_sha256, facts, sets, images)
        with TemporaryDirectory(prefix="srmill-") as folder:
            path = Path(folder) / Path(self._file(bundle)).name
            path.write_bytes(to_json(found))
            self.client.log_artifact(self._run(version), str(path), FOLDER)
        return found

    def _metrics(self) -> dict[str, Metric]:
        """Returns the metrics that decide, by label."""
        chosen, _ = choose_metrics(self.config.evaluate, self.config.crop_border)
        return {
            label: metric
            for label, metric in chosen.items()
            if isinstance(metric, Metric) and metric.has_reference
        }

    def _file(self, bundle: Bundle) -> str:
        """Returns the path of the scores among the run's artifacts, which says of what they are."""
        sets = {benchmark.name: benchmark.identity for benchmark in self.benchmarks}
        protocols = {
            label: metric_facts(metric, self.config.crop_border).protocol
            for label, metric in self._metrics().items()
        }
        measured = digest([bundle.facts.weights_sha256, sets, protocols])
        return f"{FOLDER}/{measured[:32]}.json"

    def _run(self, version: str) -> str:
        run_id = self.client.get_model_version(self.name, version).run_id
        if not run_id:
            raise UserError(
                f"{self.name} version {version} came of no run of MLflow that could keep its "
                "scores: register its bundle with jobs/register.py, or set "
                "register.promote=always."
            )
        return str(run_id)
