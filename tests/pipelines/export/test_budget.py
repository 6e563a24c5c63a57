"""The export job within a budget of latency, with a clock that says what the test wants."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.export import export
from pipelines.export.artifacts import Exporter
from pipelines.models.bundle import load_bundle
from pipelines.models.facts import EdgeArtifact
from pipelines.models.load import weights_sha256
from srmodels.edge.onnx import OnnxFp32
from tests.pipelines.export.conftest import MODEL
from tests.pipelines.export.test_export import write_evidence
from tests.support.results import BENCHMARK, METRIC

Measure = Callable[..., None]


@pytest.fixture(scope="module")
def exported() -> dict[tuple[str, ...], tuple[EdgeArtifact, bytes]]:
    """The artifacts that were made so far, by what they are of."""
    return {}


@pytest.fixture
def measure(
    exported: dict[tuple[str, ...], tuple[EdgeArtifact, bytes]], monkeypatch: pytest.MonkeyPatch
) -> Measure:
    """Lets the clock say so of the artifacts that are exported next, in their order. Each artifact
    is made once, since these tests are about the choice."""
    export_it = Exporter.export

    def measure(*milliseconds: float) -> None:
        clock = iter(milliseconds)

        def timed(exporter: Exporter, name: str) -> EdgeArtifact:
            settings = exporter.settings
            weights = weights_sha256(exporter.network.inference_state_dict())
            key = name, weights, str(settings.tile), str(settings.max_error)
            if key not in exported:
                made = export_it(exporter, name)
                exported[key] = made, (exporter.directory / made.file).read_bytes()
            made, data = exported[key]
            path = exporter.directory / made.file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            return replace(made, latency=replace(made.latency, median_ms=next(clock)))

        monkeypatch.setattr(Exporter, "export", timed)

    return measure


def test_an_artifact_that_is_too_slow_is_left_out(
    trained: Config, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evidence(trained)
    trained.export.artifacts = ["onnx_fp32", "onnx_fp16"]
    trained.export.max_quality_loss = 10.0
    measure(30.0, 15.0, 30.0, 15.0)
    export.run(trained)  # Without a budget both are there.
    trained.export.latency_budget_ms = 20.0
    bundle = load_bundle(Path(export.run(trained)))
    assert list(bundle.facts.edge) == ["onnx_fp16"]
    assert bundle.facts.edge["onnx_fp16"].latency.median_ms == 15.0
    assert [path.name for path in (bundle.path / "edge").iterdir()] == ["model_fp16.onnx"]
    said = "onnx_fp32 takes 30 ms for a tile of 32 px on "
    assert bundle.facts.left_out["onnx_fp32"].startswith(said)
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert f"Left out: {said}" in card
    assert "The best within 20 ms: run:small-joint as onnx_fp16, 15 ms per tile, " in card
    assert "The best within 20 ms: run:small-joint as onnx_fp16" in capsys.readouterr().out


def test_a_bundle_that_is_there_is_measured_again_where_it_is_too_slow(
    trained: Config, measure: Measure
) -> None:
    write_evidence(trained)
    measure(30.0, 10.0)
    export.run(trained)
    trained.export.latency_budget_ms = 40.0
    assert load_bundle(Path(export.run(trained))).facts.edge["onnx_fp32"].latency.median_ms == 30.0
    trained.export.latency_budget_ms = 20.0
    assert load_bundle(Path(export.run(trained))).facts.edge["onnx_fp32"].latency.median_ms == 10.0


def test_where_nothing_is_fast_enough_there_is_no_bundle(trained: Config, measure: Measure) -> None:
    write_evidence(trained)
    trained.export.latency_budget_ms = 20.0
    measure(30.0, 10.0)
    with pytest.raises(
        UserError, match=r"nothing is within export\.latency_budget_ms=20: .* 30 ms by run:small-j"
    ):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()
    trained.export.max_error = 1e-12
    with pytest.raises(UserError, match=r"no artifact is left for .*: onnx_fp32 differs from PyTo"):
        export.run(trained)


def test_what_a_simulator_runs_cannot_be_chosen_by_its_time(
    trained: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evidence(trained)
    trained.export.latency_budget_ms = 20.0
    monkeypatch.setattr(OnnxFp32, "simulated", True)
    with pytest.raises(
        UserError, match=r"no artifact is left for .*: only a simulator ran what is the"
    ):
        export.run(trained)


def test_a_slow_artifact_ends_a_strict_export(trained: Config, measure: Measure) -> None:
    write_evidence(trained)
    trained.export.artifacts = ["onnx_fp32", "onnx_fp16"]
    trained.export.max_quality_loss, trained.export.strict = 10.0, True
    trained.export.latency_budget_ms = 20.0
    measure(30.0, 15.0)
    with pytest.raises(UserError, match=r"onnx_fp32 takes 30 ms for a tile of 32 px on"):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()


def scored(psnr_y: float) -> dict[str, object]:
    """Returns what an evaluation measured of a model with this PSNR-Y."""
    summary = {"bicubic": {"psnr_y_crop4": 28.0}, MODEL: {"psnr_y_crop4": psnr_y}}
    benchmarks = {"Set5": replace(BENCHMARK, summary=summary)}
    return {"benchmarks": benchmarks, "metrics": {"psnr_y_crop4": METRIC}}


@pytest.mark.parametrize(
    ("budget", "milliseconds", "better"),
    [(20.0, (30.0, 12.0), False), (20.0, (18.0, 12.0), True)],
)
def test_of_several_models_the_best_within_the_budget_is_exported(
    trained: Config,
    tmp_path: Path,
    measure: Measure,
    budget: float,
    milliseconds: tuple[float, ...],
    better: bool,
) -> None:
    """The points of a curve: the run, and a bundle of fewer digits that was measured worse."""
    trained.export.weights, trained.export.artifacts = "fp16", []
    trained.output = str(tmp_path / "other")
    write_evidence(trained, **scored(29.0))
    other = load_bundle(Path(export.run(trained)))
    shutil.rmtree(tmp_path / "evidence")
    trained.export.weights, trained.export.artifacts = "fp32", ["onnx_fp32"]
    write_evidence(trained, **scored(30.0))
    trained.model, trained.output = None, str(tmp_path / "bundles")
    trained.export.candidates = [str(other.path), MODEL]
    trained.export.latency_budget_ms = budget
    assert "the best of " in export.plan(trained)
    assert f"px, within {budget:g} ms)" in export.plan(trained)
    # The other one is exported first, and its time is the second here.
    measure(*reversed(milliseconds))
    bundle = load_bundle(Path(export.run(trained)))
    assert (bundle.facts.weights_sha256 != other.facts.weights_sha256) == better
    assert bundle.facts.metrics.means()["Set5/psnr_y_crop4"] == (30.0 if better else 29.0)
    (artifact,) = bundle.facts.edge.values()
    assert artifact.latency.median_ms == milliseconds[0 if better else 1]
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert f"{30 if better else 29}.00 dB of PSNR-Y." in card


def test_a_model_beside_candidates_is_refused(trained: Config) -> None:
    trained.export.candidates, trained.export.latency_budget_ms = [MODEL], 20.0
    for start in (export.plan, export.run):
        with pytest.raises(
            UserError, match=r"model=run:small-joint and export.candidates are both"
        ):
            start(trained)
