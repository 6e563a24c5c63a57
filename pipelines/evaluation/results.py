"""What an evaluation leaves behind: means, comparisons, and every image's scores."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.config.schema import Config
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.measure import Failure, ImageResult
from pipelines.evaluation.methods import BICUBIC, INTERPOLATIONS, Method, unique_titles
from pipelines.evaluation.protocol import MAX_PSNR
from pipelines.evaluation.sets import SetScores
from pipelines.evaluation.statistics import compare
from pipelines.models.load import Model
from srmodels.metrics.suite import AnyMetric

#: Means, comparisons and what was measured.
RESULTS = "results.json"
#: Scores by image, for those who want to look closer, and for the gate.
IMAGES = "images.csv"


def summarise(
    config: Config,
    model: Model,
    benchmarks: Sequence[Benchmark],
    methods: Sequence[Method],
    metrics: Mapping[str, AnyMetric],
    found: Sequence[ImageResult],
    of_sets: SetScores,
    failures: Sequence[Failure],
) -> dict[str, Any]:
    """What `results.json` holds: means by benchmark, method and metric, and how the model compares
    with each of the others, image by image."""
    return {
        "model": str(model.reference),
        "recipe": config.recipe,
        "weights_sha256": model.weights_sha256,
        "scale": model.network.scale,
        "lineage": _lineage(model),
        "titles": unique_titles(methods, str(model.reference)),
        "metrics": {label: metric_facts(metric, config) for label, metric in metrics.items()},
        "benchmarks": {
            benchmark.name: {
                "identity": benchmark.identity,
                "degradation": benchmark.degradation,
                "num_images": len({r.key for r in found if r.benchmark == benchmark.name}),
                "num_photos": len({r.group for r in found if r.benchmark == benchmark.name}),
                "summary": _means(found, of_sets, benchmark.name, methods, metrics),
                "comparisons": {
                    other.reference: _comparisons(
                        found, benchmark.name, (str(model.reference), other.reference), metrics
                    )
                    for other in methods
                    if other.reference != str(model.reference)
                },
                "failures": [asdict(f) for f in failures if f.benchmark == benchmark.name],
            }
            for benchmark in benchmarks
        },
    }


def _lineage(model: Model) -> dict[str, str]:
    """Where the model comes from, as far as it is known."""
    known = {
        "recipe": model.config.recipe,
        "weights": f"sha256 {model.weights_sha256}",
        "trained on": f"manifest {model.facts.get('manifest')}",
        "commit": model.facts.get("git_commit"),
        "parent version": model.facts.get("parent_version"),
        "training run": model.config.run.name,
        "training step": model.facts.get("step"),
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def rival(results: Mapping[str, Any]) -> str:
    """What the model is held against in the first place: the first network that it is compared
    with, else bicubic."""
    methods = [m for m in results["titles"] if m != results["model"]]
    return next((method for method in methods if method not in INTERPOLATIONS), BICUBIC)


def metric_facts(metric: AnyMetric, config: Config) -> dict[str, Any]:
    """What readers of results need to know of a metric."""
    protocol = metric.protocol
    if metric.cropped:
        protocol += f"; border of {config.crop_border} px left out"
    if metric.unit == "dB":
        protocol += f"; an image counts {MAX_PSNR:.0f} dB at most"
    names = ("title", "unit", "digits", "margin", "higher_is_better", "has_reference")
    return {"protocol": protocol} | {name: getattr(metric, name) for name in names}


def counted(facts: Mapping[str, Any]) -> str:
    """How much a benchmark set is, for people: images that are parts of one photo tell less.

    Args:
        facts: what `results.json` says of the set.
    """
    images, photos = facts["num_images"], facts["num_photos"]
    of = f" of {photos} photo{'s' * (photos > 1)}" if photos < images else ""
    return f"{images} image{'s' * (images > 1)}{of}"


def shown(value: float | None, metric: Mapping[str, Any]) -> str:
    """A score as tables show it.

    Args:
        metric: what `metric_facts` says of it.
    """
    unit = f" {metric['unit']}" if metric["unit"] else ""
    return "–" if value is None else f"{value:.{metric['digits']}f}{unit}"


def by_image(
    found: Sequence[ImageResult], benchmark: str, method: str, label: str
) -> dict[str, float]:
    """One metric of one method, by image."""
    return {
        result.key: score
        for result in found
        if result.benchmark == benchmark and result.method == method
        if (score := result.scores.get(label)) is not None
    }


def _means(
    found: Sequence[ImageResult],
    of_sets: SetScores,
    benchmark: str,
    methods: Sequence[Method],
    labels: Iterable[str],
) -> dict[str, dict[str, float | None]]:
    """Of images; what is measured of a set is there already."""
    return {
        method.reference: {
            label: statistics.fmean(values.values())
            if values
            else of_sets.get((benchmark, method.reference, label))
            for label in labels
            for values in [by_image(found, benchmark, method.reference, label)]
        }
        for method in methods
    }


def _comparisons(
    found: Sequence[ImageResult],
    benchmark: str,
    pair: tuple[str, str],
    metrics: Mapping[str, AnyMetric],
) -> dict[str, Any]:
    """The first method beside the second, by metric; without those that no image has of both."""
    groups = {r.key: r.group for r in found if r.benchmark == benchmark}
    comparisons = {}
    for label, metric in metrics.items():
        ours, theirs = (by_image(found, benchmark, method, label) for method in pair)
        if ours.keys() & theirs.keys():
            comparison = compare(
                ours,
                theirs,
                groups,
                higher_is_better=metric.higher_is_better,
                margin=metric.margin,
            )
            comparisons[label] = asdict(comparison)
    return comparisons


def to_csv(
    found: Sequence[ImageResult], labels: Sequence[str], titles: Mapping[str, str] | None = None
) -> str:
    """One row for each image and method, under its title: a bundle carries this elsewhere."""
    titles = titles or {}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["benchmark", "key", "group", "method", *labels])
    for r in found:
        scores = [_cell(r.scores[label]) for label in labels]
        writer.writerow([r.benchmark, r.key, r.group, titles.get(r.method, r.method), *scores])
    return buffer.getvalue()


def _cell(score: float | None) -> str:
    return "" if score is None else f"{score:.6f}"


def from_csv(path: Path) -> list[ImageResult]:
    """The inverse of `to_csv`, to six decimals."""
    with path.open(newline="") as file:
        return [_from_row(row) for row in csv.DictReader(file)]


def _from_row(row: dict[str, str]) -> ImageResult:
    benchmark, key, group, method = (row.pop(n) for n in ("benchmark", "key", "group", "method"))
    scores = {label: float(value) if value else None for label, value in row.items()}
    return ImageResult(benchmark, key, group, method, scores)
