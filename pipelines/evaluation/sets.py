"""Metrics of whole sets: features of every image as Ray tasks, then one number for each method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.cluster import connect, ray_map
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import Method
from pipelines.progress import progress
from pipelines.storage.digests import digest
from pipelines.storage.files import whole_file
from srmodels.metrics.fid import FID, Features

#: Images that one Ray task reads: enough to pay for loading a large network.
_IMAGES_PER_TASK = 16
#: Scores of whole sets, by benchmark, method and the metric's label.
SetScores = dict[tuple[str, str, str], float]


def measure_sets(
    benchmarks: Sequence[Benchmark],
    methods: Sequence[Method],
    scores: Mapping[str, FID],
    protocols: Mapping[str, str],
    found: Sequence[ImageResult],
    folder: Path,
) -> SetScores:
    """Returns the score of every method on every set in which two images or more could be measured.

    Args:
        scores: the metrics, by label.
        protocols: their protocols, by label.
        found: the scores of single images, of the same benchmark sets and methods.
        folder: keeps features; those of an earlier job are not computed again.
    """
    measured: SetScores = {}
    for label, score in scores.items():
        protocol = [protocols[label], score.identity]
        for benchmark in benchmarks:
            keys = list(dict.fromkeys(r.key for r in found if r.benchmark == benchmark.name))
            if len(keys) < 2:
                continue
            sets = _Sets(benchmark, score, keys, folder, digest([protocol, benchmark.identity]))
            originals = sets.features(None)
            for method in methods:
                distance = score.distance(sets.features(method), originals)
                measured[benchmark.name, method.reference, label] = distance
    return measured


@dataclass(frozen=True)
class _Sets:
    """Features of these images of a benchmark set, kept in files of `folder`."""

    benchmark: Benchmark
    score: FID
    keys: Sequence[str]
    folder: Path
    identity: str

    def features(self, method: Method | None) -> Features:
        """Returns the features of a method's results; without a method, those of the originals."""
        known = [self.identity, self.keys, method.identity if method else "HR"]
        path = self.folder / f"{digest(known)[:32]}.npy"
        if path.exists():
            kept: Features = np.load(path)
            return kept
        features = np.stack(_run(self.benchmark, method, self.score, self.keys))
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, features)
        return features


def _run(
    benchmark: Benchmark, method: Method | None, score: FID, keys: Sequence[str]
) -> list[Features]:
    import ray

    features: list[Features] = []
    of = method.title if method else "HR"
    with connect(), progress(f"features of {of}", total=len(keys), unit="image") as bar:
        shared = ray.put(benchmark), ray.put(method), ray.put(score)
        starts = range(0, len(keys), _IMAGES_PER_TASK)
        calls = [(*shared, keys[start : start + _IMAGES_PER_TASK]) for start in starts]
        for part in ray_map(extract_features, calls):
            features += part
            bar.update(len(part))
    return features


def extract_features(
    benchmark: Benchmark, method: Method | None, score: FID, keys: Sequence[str]
) -> list[Features]:
    """Returns the features of a method's results for a few images, as a Ray task.

    Without a method, it returns the features of the originals.
    """
    benchmark.check_node()
    found = []
    for key in keys:
        lr, hr = benchmark.load(key)
        found.append(score.features(hr if method is None else method(lr)))
    return found
