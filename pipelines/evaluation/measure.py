"""Measures every method on every image, as Ray tasks, and writes each result down at once."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.cluster import connect, ray_map
from pipelines.errors import UserError
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.methods import Method
from pipelines.evaluation.pictures import Pixels
from pipelines.evaluation.protocol import MAX_PSNR
from pipelines.progress import progress
from pipelines.storage.digests import digest
from pipelines.storage.typed import parse_json, validated
from srmodels.metrics.fidelity import NoScoreError
from srmodels.metrics.suite import Score

#: Images that one Ray task measures: enough to pay for loading the models.
IMAGES_PER_TASK = 3


@dataclass(frozen=True)
class ImageResult:
    """The scores of one method on one image.

    Attributes:
        group: see `Benchmark.group`.
        scores: the scores by metric label; None where the metric cannot judge the image.
    """

    benchmark: str
    key: str
    group: str
    method: str
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Failure:
    """An image that could not be measured, and why."""

    benchmark: str
    key: str
    reason: str


Outcome = ImageResult | Failure
#: An image and the methods that are still to be run on it.
_Task = tuple[str, list[str]]


def measure(
    benchmarks: Sequence[Benchmark],
    methods: Sequence[Method],
    scores: Mapping[str, Score],
    protocols: Mapping[str, str],
    folder: Path,
) -> tuple[list[ImageResult], list[Failure]]:
    """Returns all results, in the order of benchmarks, images and methods, and the failures.

    The progress bar shows the last method's mean, so far, by the first score.

    Args:
        scores: the metrics, by label.
        protocols: their protocols, by label; with another protocol all is measured again.
        folder: keeps the results; those of an earlier or interrupted job are not measured again.
    """
    journal = _Journal(folder, protocols)
    results = {(b.name, m.reference): journal.read(b, m) for b in benchmarks for m in methods}
    failures = [Failure(b.name, key, why) for b in benchmarks for key, why in b.missing]
    todo = [(b, _unmeasured(b, methods, results)) for b in benchmarks]
    total = sum(len(benchmark.keys) for benchmark in benchmarks)
    left = sum(len(tasks) for _, tasks in todo)
    with progress("evaluate", total=total, unit="image", initial=total - left) as bar:
        for found in _run(todo, methods, scores) if left else ():
            bar.update(len({(outcome.benchmark, outcome.key) for outcome in found}))
            failures += [outcome for outcome in found if isinstance(outcome, Failure)]
            for outcome in found:
                if isinstance(outcome, ImageResult):
                    results[outcome.benchmark, outcome.method][outcome.key] = outcome
                    journal.write(outcome)
            bar.set_postfix_str(_so_far(results, methods[-1], next(iter(scores))), refresh=False)
    ordered = [
        results[benchmark.name, method.reference].get(key)
        for benchmark in benchmarks
        for key in benchmark.keys
        for method in methods
    ]
    return [result for result in ordered if result is not None], failures


def _so_far(
    results: Mapping[tuple[str, str], Mapping[str, ImageResult]], method: Method, label: str
) -> str:
    values = [
        score
        for (_, name), images in results.items()
        for result in images.values()
        if name == method.reference and (score := result.scores[label]) is not None
    ]
    return f"{label} {statistics.fmean(values):.2f}" if values else ""


def _unmeasured(
    benchmark: Benchmark,
    methods: Sequence[Method],
    results: Mapping[tuple[str, str], Mapping[str, ImageResult]],
) -> list[_Task]:
    names = [method.reference for method in methods]
    tasks = [
        (key, [name for name in names if key not in results[benchmark.name, name]])
        for key in benchmark.keys
    ]
    return [(key, missing) for key, missing in tasks if missing]


def _run(
    todo: Sequence[tuple[Benchmark, list[_Task]]],
    methods: Sequence[Method],
    scores: Mapping[str, Score],
) -> Iterator[list[Outcome]]:
    import ray

    with connect():
        # The very weights that were opened: an alias or a run may move on meanwhile.
        shared = ray.put({m.reference: m for m in methods}), ray.put(dict(scores))
        calls = [
            (ray_benchmark, *shared, tasks[start : start + IMAGES_PER_TASK])
            for benchmark, tasks in todo
            for ray_benchmark in [ray.put(benchmark)]
            for start in range(0, len(tasks), IMAGES_PER_TASK)
        ]
        yield from ray_map(measure_images, calls)


def measure_images(
    benchmark: Benchmark,
    methods: Mapping[str, Method],
    scores: Mapping[str, Score],
    tasks: Sequence[_Task],
) -> list[Outcome]:
    """Measures some methods on a few images, as a Ray task.

    Raises:
        UserError: the node does not have the images, or storage fails.
    """
    benchmark.check_node()
    outcomes: list[Outcome] = []
    for key, names in tasks:
        try:
            lr, hr = benchmark.load(key)
        except UserError:
            raise  # storage that fails says nothing of the image
        except ValueError as error:
            outcomes.append(Failure(benchmark.name, key, str(error)))
            continue
        for name in names:
            sr = methods[name](lr)
            found = {label: _score(score, sr, hr) for label, score in scores.items()}
            group = benchmark.group(key)
            outcomes.append(ImageResult(benchmark.name, key, group, name, found))
    return outcomes


def _score(score: Score, sr: Pixels, hr: Pixels) -> float | None:
    try:
        # Infinity would swallow the mean.
        return min(score(sr, hr), MAX_PSNR)
    except NoScoreError:
        return None


class _Journal:
    """Results on disk: for each benchmark and method a file that grows by a line per image."""

    def __init__(self, folder: Path, protocols: Mapping[str, str]) -> None:
        self.folder, self.protocols = folder, dict(protocols)
        self.files: dict[tuple[str, str], Path] = {}

    def read(self, benchmark: Benchmark, method: Method) -> dict[str, ImageResult]:
        """Returns the results of an earlier job, by key."""
        identity = digest([benchmark.identity, method.identity, self.protocols])
        path = self.folder / f"{identity[:32]}.jsonl"
        self.files[benchmark.name, method.reference] = path
        found = {}
        # Under other names it is the same measurement.
        names = {"benchmark": benchmark.name, "method": method.reference}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with suppress(ValueError, TypeError):  # an interrupted job's last line
                result = validated(ImageResult, parse_json(line) | names)
                found[result.key] = result
        return found

    def write(self, result: ImageResult) -> None:
        path = self.files[result.benchmark, result.method]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
