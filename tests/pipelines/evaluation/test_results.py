"""Results by image and in sum, and the files that hold them."""

from pathlib import Path

import pytest

from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import by_image, from_csv, rival, to_csv
from tests.support.results import make_results

FOUND = [
    ImageResult("Set5", 'img, "1"', "img", "bicubic", {"psnr": 30.123456, "niqe": None}),
    ImageResult("Set5", "img_2", "img", "run:a", {"psnr": 31.0, "niqe": 5.5}),
]


def test_scores_by_image_come_back_from_csv(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text(to_csv(FOUND, ["psnr", "niqe"]))
    assert from_csv(tmp_path / "images.csv") == FOUND


def test_an_image_that_a_metric_does_not_fit_has_no_score() -> None:
    assert by_image(FOUND, "Set5", "bicubic", "niqe") == {}
    assert by_image(FOUND, "Set5", "bicubic", "psnr") == {'img, "1"': 30.123456}


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["bicubic", "m"], "bicubic"),
        (["bicubic", "lanczos", "m"], "bicubic"),
        (["bicubic", "lanczos", "span", "run:a", "m"], "span"),
    ],
)
def test_the_rival_is_the_first_network(methods: list[str], expected: str) -> None:
    results = make_results(titles={method: method for method in methods})
    assert rival(results) == expected
