"""Every method on every image: what is kept, what goes wrong, and what is not done twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.config.load import load_config
from pipelines.errors import UserError
from pipelines.evaluation.benchmarks import Benchmark, open_benchmark
from pipelines.evaluation.measure import Failure, ImageResult, measure, measure_images
from pipelines.evaluation.methods import Method
from pipelines.evaluation.sets import extract_features
from srmodels.metrics import NoScoreError, psnr_y
from tests.conftest import SMALL
from tests.pipelines.evaluation.test_benchmarks import image, save


class FourImages(Benchmark):
    """Gray ones, of which one is broken; and one has no LR image."""

    name, keys, degradation = "four", ("a", "b", "c", "d"), "none"
    missing = (("e", "has no LR image"),)

    def __init__(self, identity: str = "1") -> None:
        self.identity = identity

    def load(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        if key == "c":
            raise ValueError("c.png: not an image")
        level = 100 + ord(key)
        return np.full((16, 16, 3), level, np.uint8), np.full((64, 64, 3), level, np.uint8)


class Brighter(Method):
    """Off by so many levels."""

    scale = 4

    def __init__(self, by: int, identity: str | None = None) -> None:
        self.by, self.title = by, f"by {by}"
        self.reference, self.identity = self.title, identity or self.title

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        return lr.repeat(4, 0).repeat(4, 1) + np.uint8(self.by)


def too_small(sr: np.ndarray, hr: np.ndarray) -> float:
    raise NoScoreError("too small")


PROTOCOLS = {"psnr": "p", "niqe": "p"}
SCORES = {"psnr": lambda sr, hr: psnr_y(sr, hr, 4), "niqe": too_small}


def test_what_is_wrong_with_an_image_is_named_and_stops_no_other(ran: list, tmp_path: Path) -> None:
    found, failures = measure(
        [FourImages()], [Brighter(0), Brighter(2)], SCORES, PROTOCOLS, tmp_path
    )
    assert [(r.key, r.method) for r in found] == [
        (key, method) for key in "abd" for method in ("by 0", "by 2")
    ]
    assert failures == [
        Failure("four", "e", "has no LR image"),
        Failure("four", "c", "c.png: not an image"),
    ]
    # No error at all counts 100 dB; what does not apply to an image is no error.
    assert found[0] == ImageResult("four", "a", "a", "by 0", {"psnr": 100.0, "niqe": None})
    assert found[1].scores["psnr"] == pytest.approx(42.11, abs=0.02)


def test_what_is_known_is_not_measured_again(ran: list, tmp_path: Path) -> None:
    first, _ = measure([FourImages()], [Brighter(0)], SCORES, PROTOCOLS, tmp_path)
    ran.clear()
    again, failures = measure([FourImages()], [Brighter(0)], SCORES, PROTOCOLS, tmp_path)
    assert again == first
    assert ran == [("c", ["by 0"])]  # it may have been mended
    assert len(failures) == 2
    # Another method beside it is all that is missing.
    ran.clear()
    both, _ = measure([FourImages()], [Brighter(0), Brighter(1)], SCORES, PROTOCOLS, tmp_path)
    assert [task for task in ran if task[0] != "c"] == [(key, ["by 1"]) for key in "abd"]
    assert len(both) == 6


@pytest.mark.parametrize(
    ("benchmark", "method", "protocols"),
    [
        (FourImages("2"), Brighter(0), PROTOCOLS),
        (FourImages(), Brighter(0, "other weights"), PROTOCOLS),
        (FourImages(), Brighter(0), {"psnr": "p"}),
        (FourImages(), Brighter(0), PROTOCOLS | {"niqe": "another"}),
    ],
)
def test_what_has_changed_is_measured_again(
    ran: list, tmp_path: Path, benchmark: Benchmark, method: Method, protocols: dict
) -> None:
    measure([FourImages()], [Brighter(0)], SCORES, PROTOCOLS, tmp_path)
    ran.clear()
    measure([benchmark], [method], SCORES, protocols, tmp_path)
    assert len(ran) == 4


def test_an_interrupted_measurement_goes_on(ran: list, tmp_path: Path) -> None:
    measure([FourImages()], [Brighter(0)], SCORES, PROTOCOLS, tmp_path)
    [journal] = tmp_path.glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(lines[0] + lines[1][:30])  # killed while it wrote
    ran.clear()
    found, _ = measure([FourImages()], [Brighter(0)], SCORES, PROTOCOLS, tmp_path)
    assert [task[0] for task in ran] == ["b", "c", "d"]
    assert [result.key for result in found] == ["a", "b", "d"]
    ran.clear()
    measure([FourImages()], [Brighter(0)], SCORES, PROTOCOLS, tmp_path)
    assert [task[0] for task in ran if task[0] != "c"] == [
        "b"
    ]  # the line that was glued to half a one


def test_storage_that_fails_says_nothing_of_the_image() -> None:
    class Away(FourImages):
        def load(self, key: str) -> tuple[np.ndarray, np.ndarray]:
            raise UserError("s3://bucket/set does not answer.")

    with pytest.raises(UserError, match="does not answer"):
        measure_images(Away(), {"by 0": Brighter(0)}, SCORES, [("a", ["by 0"])])


@pytest.mark.parametrize("layout", ["{}.png", "HR/{}.png"])
def test_a_node_without_the_folder_of_a_benchmark_says_so(tmp_path: Path, layout: str) -> None:
    save(tmp_path / "set" / layout.format("a"), image(0, 32, 32))
    if "/" in layout:
        save(tmp_path / "set" / "LR" / "a.png", image(0, 8, 8))
    benchmark = open_benchmark(str(tmp_path / "set"), load_config([f"recipe={SMALL}"]))
    _is_refused(benchmark, tmp_path / "set", "copy the set to every node under this path")


def test_a_node_without_the_dataset_of_the_validation_split_says_so(
    dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    config = load_config([f"recipe={SMALL}", f"data={tmp_path / 'data'}"])
    benchmark = open_benchmark("validation", config)
    _is_refused(benchmark, tmp_path / "data", "copy the dataset to s3://bucket/prefix")


def _is_refused(benchmark: Benchmark, folder: Path, remedy: str) -> None:
    tasks = [(key, ["by 0"]) for key in benchmark.keys]
    benchmark.load(benchmark.keys[0])
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(UserError, match=f"does not see the folder {folder}.*: {remedy}"):
        measure_images(benchmark, {"by 0": Brighter(0)}, SCORES, tasks)
    with pytest.raises(UserError, match=f"does not see the folder {folder}.*: {remedy}"):
        extract_features(benchmark, None, None, benchmark.keys)  # type: ignore[arg-type]
