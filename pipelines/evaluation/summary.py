"""Sums up measurements: means by benchmark set, method and metric, and paired comparisons."""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.latency import Cost, machine
from pipelines.evaluation.measure import Failure, ImageResult
from pipelines.evaluation.methods import Method, unique_titles
from pipelines.evaluation.protocol import MAX_PSNR
from pipelines.evaluation.results import BenchmarkResults, EvaluationResults, by_image
from pipelines.evaluation.sets import SetScores
from pipelines.evaluation.statistics import Comparison, compare
from pipelines.models.facts import MetricFacts, Scores
from pipelines.models.load import Model
from srmodels.metrics.suite import AnyMetric


@dataclass(frozen=True)
class Subject:
    """A model, and the methods, benchmark sets and metrics of its evaluation.

    Attributes:
        methods: all methods to measure; the last one is the model itself.
        metrics: the metrics by label; their results have the same labels.
        crop_border: width in pixels of the border that some metrics leave out.
    """

    model: Model
    methods: Sequence[Method]
    benchmarks: Sequence[Benchmark]
    metrics: Mapping[str, AnyMetric]
    crop_border: int

    @property
    def protocols(self) -> dict[str, str]:
        """The metrics' protocols, by label."""
        return {label: metric.protocol for label, metric in self.metrics.items()}


@dataclass(frozen=True)
class Measurements:
    """The measurements of a subject.

    Attributes:
        images: the scores of each method on each image.
        of_sets: the scores of metrics that judge whole sets.
        failures: the images that could not be measured.
        costs: the cost of each method, by its reference.
        latency_runs: number of timed runs behind each latency in `costs`.
    """

    images: Sequence[ImageResult]
    of_sets: SetScores
    failures: Sequence[Failure]
    costs: dict[str, Cost]
    latency_runs: int


def summarise(
    recipe: str, identity: str, subject: Subject, measured: Measurements
) -> EvaluationResults:
    """Returns means and comparisons, dated today and signed with this machine."""
    model = subject.model
    return EvaluationResults(
        model=str(model.reference),
        recipe=recipe,
        weights_sha256=model.weights_sha256,
        scale=model.network.scale,
        lineage=_lineage(model),
        titles=unique_titles(subject.methods, str(model.reference)),
        metrics={
            label: metric_facts(metric, subject.crop_border)
            for label, metric in subject.metrics.items()
        },
        benchmarks={
            benchmark.name: _results_on(benchmark, subject, measured)
            for benchmark in subject.benchmarks
        },
        identity=identity,
        date=time.strftime("%Y-%m-%d"),
        machine=machine(),
        latency_runs=measured.latency_runs,
        costs=measured.costs,
    )


def metric_facts(metric: AnyMetric, crop_border: int) -> MetricFacts:
    """Returns the facts that readers of a metric's scores need, with its whole protocol."""
    protocol = metric.protocol
    if metric.cropped:
        protocol += f"; border of {crop_border} px left out"
    if metric.unit == "dB":
        protocol += f"; an image counts {MAX_PSNR:.0f} dB at most"
    return MetricFacts(
        protocol=protocol,
        title=metric.title,
        unit=metric.unit,
        digits=metric.digits,
        margin=metric.margin,
        higher_is_better=metric.higher_is_better,
        has_reference=metric.has_reference,
    )


def _lineage(model: Model) -> dict[str, str]:
    """Returns the known facts about the origin of the model."""
    origin = model.provenance
    known = {
        "recipe": model.config.recipe,
        "weights": f"sha256 {model.weights_sha256}",
        "trained on": f"manifest {origin.manifest}",
        "commit": origin.git_commit,
        "version": model.version,
        "parent version": origin.parent_version,
        "training run": model.config.run.name,
        "training step": origin.step,
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def _results_on(benchmark: Benchmark, subject: Subject, measured: Measurements) -> BenchmarkResults:
    images = [result for result in measured.images if result.benchmark == benchmark.name]
    ours = str(subject.model.reference)
    return BenchmarkResults(
        identity=benchmark.identity,
        degradation=benchmark.degradation,
        num_images=len({result.key for result in images}),
        num_photos=len({result.group for result in images}),
        summary={
            method.reference: _means(
                images, measured.of_sets, benchmark.name, method.reference, subject.metrics
            )
            for method in subject.methods
        },
        comparisons={
            other.reference: _comparisons(
                images, benchmark.name, (ours, other.reference), subject.metrics
            )
            for other in subject.methods
            if other.reference != ours
        },
        failures=[failure for failure in measured.failures if failure.benchmark == benchmark.name],
    )


def _means(
    images: Sequence[ImageResult],
    of_sets: SetScores,
    benchmark: str,
    method: str,
    labels: Iterable[str],
) -> Scores:
    """Returns the mean over the images by label; a metric of whole sets has its score already."""
    return {
        label: statistics.fmean(values.values())
        if values
        else of_sets.get((benchmark, method, label))
        for label in labels
        for values in [by_image(images, benchmark, method, label)]
    }


def _comparisons(
    images: Sequence[ImageResult],
    benchmark: str,
    pair: tuple[str, str],
    metrics: Mapping[str, AnyMetric],
) -> dict[str, Comparison]:
    """Compares the first method with the second by each metric that judged an image of both."""
    groups = {result.key: result.group for result in images}
    comparisons = {}
    for label, metric in metrics.items():
        ours, theirs = (by_image(images, benchmark, method, label) for method in pair)
        if ours.keys() & theirs.keys():
            comparisons[label] = compare(
                ours,
                theirs,
                groups,
                higher_is_better=metric.higher_is_better,
                margin=metric.margin,
            )
    return comparisons
