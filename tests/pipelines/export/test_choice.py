"""The best artifact within a budget of latency, by figures that were measured elsewhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.export.choice import Point, best_within, comparable_psnr_y, points_of, too_slow
from pipelines.models.facts import BundleMetrics, EdgeArtifact, Scores
from srmodels.latency import Latency
from tests.pipelines.models.test_facts import ARTIFACT
from tests.support.bundles import make_bundle


def artifact(ms: float, loss: float) -> EdgeArtifact:
    return replace(
        ARTIFACT,
        latency=Latency(128, ms, ms, ms, runs=10, threads=2),
        quality=replace(ARTIFACT.quality, loss=loss),
    )


WIDE = {"onnx_fp32": artifact(31.25, 0.0), "onnx_int8": artifact(19.0, 0.05)}
NARROW = {"onnx_fp32": artifact(20.0, 0.0), "onnx_int8": artifact(8.5, 0.2)}
CURVE = [*points_of("run:wide", WIDE, 30.9), *points_of("run:narrow", NARROW, 30.7)]


@pytest.mark.parametrize(
    ("budget", "model", "name"),
    [
        (100.0, "run:wide", "onnx_fp32"),
        (31.0, "run:wide", "onnx_int8"),  # 30.85 dB, where the narrow one in fp32 has 30.70
        (18.9, "run:narrow", "onnx_int8"),
        (8.5, "run:narrow", "onnx_int8"),
    ],
)
def test_the_best_of_a_curve_is_within_the_budget(budget: float, model: str, name: str) -> None:
    for points in (CURVE, CURVE[::-1]):
        best = best_within(budget, points)
        assert (best.model, best.artifact) == (model, name)


def test_of_equal_ones_the_faster_is_taken() -> None:
    equal = points_of(
        "run:a", {"onnx_fp16": artifact(9.0, 0.1), "onnx_int8": artifact(4.0, 0.1)}, 0
    )
    assert best_within(10.0, equal).artifact == "onnx_int8"


def test_where_none_is_fast_enough_the_figures_are_told() -> None:
    with pytest.raises(UserError) as refused:
        best_within(8.0, CURVE)
    assert str(refused.value) == (
        "nothing is within export.latency_budget_ms=8: a tile of 128 px on 2 threads takes 31.25 "
        "ms by run:wide as onnx_fp32, 19 ms by run:wide as onnx_int8, 20 ms by run:narrow as "
        "onnx_fp32, 8.5 ms by run:narrow as onnx_int8. Make a model narrower "
        "(docs/compression.md), take int8 or a smaller export.tile, or raise the budget."
    )


def test_a_point_for_people() -> None:
    alone = Point("run:a", "onnx_int8", 0.0, 0.037, WIDE["onnx_int8"].latency)
    assert str(alone) == "run:a as onnx_int8, 19 ms per tile, 0.037 dB lost"
    assert str(replace(alone, psnr_y=30.75)).endswith("0.037 dB lost, 30.71 dB of PSNR-Y")


def test_artifacts_that_are_too_slow_are_named() -> None:
    assert too_slow(None, WIDE) == {}
    assert too_slow(31.25, WIDE) == {}
    slow = too_slow(20.0, WIDE)
    assert list(slow) == ["onnx_fp32"]
    assert slow["onnx_fp32"].startswith(
        "onnx_fp32 takes 31.25 ms for a tile of 128 px on 2 threads, more than "
        "export.latency_budget_ms=20: take a narrower model"
    )


def test_what_a_simulator_ran_is_no_point_and_within_any_budget() -> None:
    untimed = {"qnn_sm8650": replace(ARTIFACT, latency=None, latency_ratio=None)}
    assert points_of("run:wide", untimed, 30.9) == []
    assert too_slow(0.1, untimed) == {}


def metrics(
    folder: Path, *scores: Scores, identities: tuple[str, ...] = ("a", "b")
) -> BundleMetrics:
    found = make_bundle(folder).facts.metrics
    (one,) = found.benchmarks.values()
    sets = {
        f"set {identity}": replace(one, identity=identity, model=score)
        for identity, score in zip(identities, scores, strict=False)
    }
    return replace(found, benchmarks=sets)


def test_models_are_compared_by_the_mean_over_the_sets_that_all_have(tmp_path: Path) -> None:
    first = {"psnr_y_crop4": 30.0, "ssim_y_crop4": 0.9}, {"psnr_y_crop4": 28.0}
    one = metrics(tmp_path / "1", *first)
    other = metrics(tmp_path / "2", {"psnr_y_crop4": 31.0}, {"psnr_y_crop4": 28.0})
    assert comparable_psnr_y({"run:a": one, "run:b": other}) == {"run:a": 29.0, "run:b": 29.5}
    few = metrics(
        tmp_path / "3", {"psnr_y_crop4": 27.0}, {"psnr_y_crop4": 9}, identities=("b", "c")
    )
    assert comparable_psnr_y({"run:a": one, "run:c": few}) == {"run:a": 28.0, "run:c": 27.0}


@pytest.mark.parametrize(
    ("scores", "identity"),
    [({"psnr_y_crop4": 31.0}, "c"), ({"psnr_y_crop0": 31.0}, "a")],
    ids=["other images", "another border"],
)
def test_models_that_saw_other_images_are_not_compared(
    tmp_path: Path, scores: Scores, identity: str
) -> None:
    one = metrics(tmp_path / "1", *({"psnr_y_crop4": 30.0},) * 2)
    other = metrics(tmp_path / "2", scores, identities=(identity,))
    with pytest.raises(UserError, match="run:a and run:b were not measured on the same images"):
        comparable_psnr_y({"run:a": one, "run:b": other})


def test_a_model_without_psnr_y_is_not_compared(tmp_path: Path) -> None:
    one = metrics(tmp_path / "1", {"lpips_alex": 0.1, "psnr_y_crop4": None})
    with pytest.raises(UserError, match=r"run:a has no PSNR-Y, by which export\.latency_budget_ms"):
        comparable_psnr_y({"run:a": one})
