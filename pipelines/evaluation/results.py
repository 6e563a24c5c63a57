"""The results of an evaluation as types: `results.json`, and every image's scores in a CSV."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.config.reference import INTERPOLATIONS
from pipelines.errors import UserError, listing, told
from pipelines.evaluation.latency import Cost
from pipelines.evaluation.measure import Failure, ImageResult
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.statistics import Comparison
from pipelines.models.bundle import IMAGES
from pipelines.models.facts import MetricFacts, Scores
from pipelines.storage.files import local_files
from pipelines.storage.ownership import Owns
from pipelines.storage.typed import Document

#: Means, comparisons and what was measured.
RESULTS = "results.json"
REPORT = "report.html"
#: The folder of the report's pictures, `<set>-<number>.png`.
PICTURES = "pictures"


@dataclass(frozen=True)
class BenchmarkResults:
    """The results of all methods on one benchmark set.

    Attributes:
        identity, degradation: see `Benchmark`.
        num_photos: photos that the images are parts of.
        summary: mean scores by method.
        comparisons: the model beside each other method, by method and metric.
        failures: images that could not be measured.
    """

    identity: str
    degradation: str
    num_images: int
    num_photos: int
    summary: dict[str, Scores]
    comparisons: dict[str, dict[str, Comparison]]
    failures: list[Failure]


@dataclass(frozen=True)
class EvaluationResults(Document):
    """The content of `results.json`. Methods go by their references, metrics by their labels.

    Attributes:
        model: the reference of the model that was evaluated.
        weights_sha256: see `Model.weights_sha256`.
        lineage: the origin of the model, for people.
        titles: titles of the methods in tables, by reference.
        metrics: the metrics by label, in the order of the tables' columns.
        identity: digest of all that was measured; equal where nothing needs to be measured again.
        date: date of the measurement, YYYY-MM-DD.
        machine: the machine that the costs were measured on.
        latency_runs: timed runs of each method and size.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "run jobs/evaluate.py again"

    model: str
    recipe: str
    weights_sha256: str
    scale: int
    lineage: dict[str, str]
    titles: dict[str, str]
    metrics: dict[str, MetricFacts]
    benchmarks: dict[str, BenchmarkResults]
    identity: str
    date: str
    machine: str
    latency_runs: int
    costs: dict[str, Cost]

    def __post_init__(self) -> None:
        measured = [found.summary.keys() for found in self.benchmarks.values()]
        if not measured or any(not {self.model, BICUBIC} <= methods for methods in measured):
            raise ValueError("no scores of the model or of bicubic")
        if self.model not in self.titles:
            raise ValueError("no title of the model")


def owned(document: dict[str, Any]) -> Owns | None:
    """Returns which files belong to results of any version, given the content of `results.json`."""
    sets = document.get("benchmarks")
    if not isinstance(document.get(EvaluationResults.VERSION_KEY), int):
        return None
    if not isinstance(sets, dict):
        return None
    pictures = listing(map(re.escape, sets), "|")
    names = rf"{re.escape(REPORT)}|{re.escape(IMAGES)}|{PICTURES}/({pictures})-\d+\.png"
    return lambda name: re.fullmatch(names, name) is not None


def rival(results: EvaluationResults) -> str:
    """Returns the method to beat: the first network that the model is compared with, else
    bicubic."""
    methods = [method for method in results.titles if method != results.model]
    return next((method for method in methods if method not in INTERPOLATIONS), BICUBIC)


def counted(benchmark: BenchmarkResults) -> str:
    """Returns the size of a benchmark set in words: images that are parts of one photo tell
    less."""
    images, photos = benchmark.num_images, benchmark.num_photos
    of = f" of {photos} photo{'s' * (photos > 1)}" if photos < images else ""
    return f"{images} image{'s' * (images > 1)}{of}"


def shown(value: float | None, metric: MetricFacts) -> str:
    """Returns a score as tables show it."""
    unit = f" {metric.unit}" if metric.unit else ""
    return "–" if value is None else f"{value:.{metric.digits}f}{unit}"


def by_image(
    found: Sequence[ImageResult], benchmark: str, method: str, label: str
) -> dict[str, float]:
    """Returns the scores of one method by one metric, by image; images without one are left out."""
    return {
        result.key: score
        for result in found
        if result.benchmark == benchmark and result.method == method
        if (score := result.scores.get(label)) is not None
    }


def to_csv(
    found: Sequence[ImageResult], labels: Sequence[str], titles: Mapping[str, str] | None = None
) -> str:
    """Returns a table with a row for each image and method.

    Args:
        labels: the metrics, which become columns.
        titles: names that the methods go by in the table; without one, the reference.
    """
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
    """Reads what `to_csv` wrote; scores have six decimals.

    Raises:
        UserError: the file cannot be read, or is no such table.
    """
    try:
        with local_files(path), path.open(newline="", encoding="utf-8") as file:
            return [_from_row(row) for row in csv.DictReader(file, strict=True)]
    except (csv.Error, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        why = f"{type(error).__name__}: {told(error)}"
        raise UserError(
            f"{path} is damaged ({why}): run jobs/evaluate.py again, or fetch the bundle again."
        ) from None


def _from_row(row: dict[str, str]) -> ImageResult:
    benchmark, key, group, method = (row.pop(n) for n in ("benchmark", "key", "group", "method"))
    if None in row or None in row.values():
        raise ValueError("a row has more or fewer fields than the header")
    scores = {label: float(value) if value else None for label, value in row.items()}
    return ImageResult(benchmark, key, group, method, scores)
