"""Metrics of whole sets: what is computed, what is kept, and that they travel."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.evaluation import sets
from pipelines.evaluation.benchmarks import Benchmark, open_benchmark
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import BICUBIC, Method, open_method
from pipelines.evaluation.sets import extract_features, measure_sets
from srmodels.metrics.fid import FID
from tests.conftest import SMALL
from tests.pipelines.evaluation.test_benchmarks import image, save


class MeanColour(FID):
    """FID whose network is the mean of each channel and of its square."""

    def __init__(self) -> None:
        self.data = b""

    def features(self, image: np.ndarray) -> np.ndarray:
        x = image.reshape(-1, 3) / 255
        return np.concatenate([x.mean(0), (x**2).mean(0)])


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose features were, in this process instead of as Ray tasks."""
    seen: list[str] = []

    def run(
        benchmark: Benchmark, method: Method | None, score: FID, keys: Sequence[str]
    ) -> list[np.ndarray]:
        seen.append(method.reference if method else "HR")
        again: FID = pickle.loads(pickle.dumps(score))
        return extract_features(benchmark, method, again, keys)

    monkeypatch.setattr(sets, "_run", run)
    return seen


def test_each_method_and_the_originals_once(tmp_path: Path, computed: list[str]) -> None:
    for number in range(4):
        save(tmp_path / "set" / f"{number}.png", image(number, 48, 48) // (number + 1))
    config = load_config([f"recipe={SMALL}"])
    benchmark = open_benchmark(str(tmp_path / "set"), config)
    methods = [open_method(ModelReference.parse(name), config) for name in (BICUBIC, "lanczos")]
    keys = list(benchmark.keys)[:3]  # the fourth could not be measured
    found = [ImageResult("set", key, key, m.reference, {}) for key in keys for m in methods]

    def measure(*chosen: Method, protocol: str = "a") -> sets.SetScores:
        scores, protocols = {"fid": MeanColour()}, {"fid": protocol}
        return measure_sets([benchmark], chosen, scores, protocols, found, tmp_path / "kept")

    first = measure(*methods)
    assert computed == ["HR", BICUBIC, "lanczos"]
    pairs = [(methods[0](lr), hr) for lr, hr in map(benchmark.load, keys)]
    colour = MeanColour()
    ours, originals = (
        np.stack([colour.features(x) for x in side]) for side in zip(*pairs, strict=True)
    )
    assert first["set", BICUBIC, "fid"] == FID.distance(ours, originals) > 0
    assert measure(*methods) == first
    assert len(computed) == 3
    measure(methods[0], protocol="b")
    assert computed[3:] == ["HR", BICUBIC]


def test_a_set_of_which_nothing_could_be_measured(tmp_path: Path, computed: list[str]) -> None:
    save(tmp_path / "set" / "0.png", image(0, 48, 48))
    config = load_config([f"recipe={SMALL}"])
    benchmark = open_benchmark(str(tmp_path / "set"), config)
    scores = {"fid": MeanColour()}
    method = open_method(ModelReference.parse(BICUBIC), config)
    assert not measure_sets([benchmark], [method], scores, {"fid": "a"}, [], tmp_path / "kept")
    assert not computed


def test_a_single_image_has_no_number(tmp_path: Path, computed: list[str]) -> None:
    save(tmp_path / "set" / "0.png", image(0, 48, 48))
    config = load_config([f"recipe={SMALL}"])
    benchmark = open_benchmark(str(tmp_path / "set"), config)
    found = [ImageResult("set", key, key, BICUBIC, {}) for key in benchmark.keys]
    method = open_method(ModelReference.parse(BICUBIC), config)
    scores = {"fid": MeanColour()}
    assert not measure_sets([benchmark], [method], scores, {"fid": "a"}, found, tmp_path / "kept")
