"""Finds what jobs/evaluate.py measured of the weights that are exported, and of no others."""

from dataclasses import dataclass
from typing import Any

from pipelines.config.schema import ExportConfig
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.results import REPORT, RESULTS, EvaluationResults
from pipelines.models.bundle import IMAGES
from pipelines.models.facts import BenchmarkFacts, BundleMetrics
from pipelines.models.load import Model
from pipelines.storage.folders import unchanged
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import open_store
from pipelines.storage.typed import read_typed


@dataclass(frozen=True)
class Evidence:
    """The results of evaluating exactly the weights that are exported.

    Attributes:
        metrics: the means of every benchmark set, for `bundle.json`.
        files: the report and the scores of every image, by name.
    """

    metrics: BundleMetrics
    files: dict[str, bytes]


def find_evidence(
    settings: ExportConfig, model: Model, benchmark: Any, policy: RetryPolicy = RetryPolicy()
) -> Evidence:
    """Returns the evidence for a model: of jobs/evaluate.py, or the one in its own bundle.

    Args:
        benchmark: the sets that it was measured on, as `parse_names` takes them.
        policy: limits the waiting for object storage.

    Raises:
        UserError: the model has not been measured, or with other weights; or the results are
            damaged or of another version.
    """
    location = evaluate.output_location(settings.evidence, model.reference, benchmark)
    store = open_store(location, policy=policy)
    if store.size(RESULTS) is not None:
        with unchanged(store, RESULTS) as data:
            results = read_typed(EvaluationResults, data, f"{location}/{RESULTS}")
            if results.weights_sha256 == model.weights_sha256:
                files = {name: store.read(name) for name in (REPORT, IMAGES)}
                return Evidence(_metrics(results), files)
    if model.bundle is not None and model.bundle.facts.weights_sha256 == model.weights_sha256:
        own = [name for name in (REPORT, IMAGES) if name in model.bundle.facts.files]
        files = {name: (model.bundle.path / name).read_bytes() for name in own}
        return Evidence(model.bundle.facts.metrics, files)
    raise UserError(
        f"{model.reference} has not been measured as it is now: run jobs/evaluate.py "
        f"model={model.reference} export.weights={settings.weights} first, with the same "
        "benchmark and with output= where export.evidence is."
    )


def _metrics(results: EvaluationResults) -> BundleMetrics:
    model = results.model
    benchmarks = {
        name: BenchmarkFacts(
            identity=found.identity,
            degradation=found.degradation,
            num_images=found.num_images,
            model=found.summary[model],
            bicubic=found.summary[BICUBIC],
        )
        for name, found in results.benchmarks.items()
    }
    return BundleMetrics(results.metrics, results.titles[model], benchmarks)
