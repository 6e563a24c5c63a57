"""Results by image and in sum, and the files that hold them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.evaluation.latency import Cost
from pipelines.evaluation.measure import Failure, ImageResult
from pipelines.evaluation.results import (
    RESULTS,
    EvaluationResults,
    by_image,
    from_csv,
    rival,
    to_csv,
)
from pipelines.storage.typed import read_typed, to_dict, to_json
from srmodels.latency import Latency
from tests.support.results import BENCHMARK, METRIC, make_results

FOUND = [
    ImageResult("Set5", 'img, "1"', "img", "bicubic", {"psnr": 30.123456, "niqe": None}),
    ImageResult("Set5", "img_2", "img", "run:a", {"psnr": 31.0, "niqe": 5.5}),
]


def test_scores_by_image_come_back_from_csv(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text(to_csv(FOUND, ["psnr", "niqe"]))
    assert from_csv(tmp_path / "images.csv") == FOUND


def test_results_come_back_as_they_were_in_their_order() -> None:
    metrics = {"z": METRIC, "a": replace(METRIC, higher_is_better=False, margin=1)}
    latency = Latency(16, 2.0, 1.0, 3.0, runs=3, threads=2)
    costs = {"m": Cost(None, 0.5, 10, [latency]), "bicubic": Cost(None, None, None, [])}
    found = replace(BENCHMARK, failures=[Failure("Set5", "c", "why")])
    results = make_results(metrics=metrics, costs=costs, benchmarks={"Set5": found})
    again = read_typed(EvaluationResults, to_json(results), RESULTS)
    assert again == results
    assert list(again.metrics) == ["z", "a"]
    assert list(again.costs) == ["m", "bicubic"]


def test_a_wrong_result_is_named() -> None:
    document = to_dict(make_results())
    document["benchmarks"]["Set5"]["comparisons"]["bicubic"]["psnr"]["low"] = "none"
    place = r"benchmarks\.Set5\.comparisons\.bicubic\.psnr\.low: input should be a valid number"
    with pytest.raises(UserError, match=rf"results\.json is damaged \({place}"):
        read_typed(EvaluationResults, json.dumps(document).encode(), RESULTS)


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
