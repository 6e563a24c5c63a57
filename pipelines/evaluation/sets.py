"""Metrics of whole sets: features of every image as Ray tasks, then one number for each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.cluster import connect, ray_map
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import Method
from pipelines.progress import progress
from pipelines.storage import digest
from srmodels.metrics.fid import FID, Features
from srmodels.metrics.fidelity import NoScoreError

#: Images that one Ray task reads: enough to pay for loading a large network.
_IMAGES_PER_TASK = 16
#: By benchmark, method and the metric's label.
SetScores = dict[tuple[str, str, str], float]


def measure_sets(
    benchmarks: Sequence[Benchmark],
    methods: Sequence[Method],
    scores: Mapping[str, FID],
    protocols: Mapping[str, str],
    found: Sequence[ImageResult],
    folder: Path,
) -> SetScores:
    """Of every method on every set that has two images or more; on those that could be measured.

    Args:
        scores: by label.
        protocols: of the scores.
        found: the scores of single images, of the same benchmark sets and methods.
        folder: for features; what it holds of an earlier job is not computed again.
    """
    measured: SetScores = {}
    for label, score in scores.items():
        for benchmark in benchmarks:
            keys = list(dict.fromkeys(r.key for r in found if r.benchmark == benchmark.name))
            known = [protocols[label], benchmark.identity, keys]
            originals = _features(benchmark, None, score, keys, folder / f"{digest(known)[:32]}")
            for method in methods:
                path = folder / f"{digest([*known, method.identity])[:32]}"
                results = _features(benchmark, method, score, keys, path)
                try:
                    distance = score.distance(results, originals)
                except NoScoreError:
                    continue
                measured[benchmark.name, method.reference, label] = distance
    return measured


def _features(
    benchmark: Benchmark, method: Method | None, score: FID, keys: Sequence[str], path: Path
) -> Features:
    path = path.with_suffix(".npy")
    if path.exists():
        known: Features = np.load(path)
        return known
    features = np.stack(_run(benchmark, method, score, keys))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under its name it is whole.
    part = path.with_suffix(".part.npy")
    np.save(part, features)
    part.replace(path)
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
    """A Ray task: of what a method makes of a few images; without one, of their originals."""
    found = []
    for key in keys:
        lr, hr = benchmark.load(key)
        found.append(score.features(hr if method is None else method(lr)))
    return found
