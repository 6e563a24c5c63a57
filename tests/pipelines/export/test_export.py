"""The export job: what a bundle of a trained run holds, and what it refuses."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import REPORT, RESULTS, EvaluationResults, from_csv, to_csv
from pipelines.export import export
from pipelines.export.evidence import find_evidence
from pipelines.models.bundle import IMAGES, load_bundle, local_bundle
from pipelines.models.load import at_precision, load_model, weights_sha256
from pipelines.registry import register
from pipelines.storage.files import file_sha256
from pipelines.storage.store import open_store
from pipelines.storage.typed import to_json
from pipelines.training.launch import run_stages
from srmodels.edge.onnx import OnnxRunner
from tests.support.results import BENCHMARK, make_results
from tests.support.training import configure

MODEL = "run:small-joint"


def write_evidence(config: Config, model: str = MODEL, **changes: object) -> EvaluationResults:
    """Writes the results that an evaluation of the trained model would leave behind."""
    loaded = load_model(ModelReference.parse(model), config)
    weights = at_precision(loaded, config.export.weights).weights_sha256
    found = replace(BENCHMARK, summary={"bicubic": {"psnr": 28.0}, model: {"psnr": 29.0}})
    titles = {"bicubic": "bicubic", model: "model"}
    benchmarks = {"Set5": found, "Set14": replace(found, identity="another")}
    values = {"weights_sha256": weights, "benchmarks": benchmarks, "titles": titles}
    results = make_results(model=model, **values | changes)
    folder = Path(
        evaluate.output_location(
            config.export.evidence, ModelReference.parse(model), config.benchmark
        )
    )
    folder.mkdir(parents=True)
    (folder / RESULTS).write_bytes(to_json(results))
    (folder / REPORT).write_text("<html>")
    rows = [ImageResult("Set5", "a", "a", model, {"psnr": 29.0})]
    (folder / IMAGES).write_text(to_csv(rows, ["psnr"], titles))
    return results


@pytest.fixture(scope="module")
def home(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that was trained for one step, in this process."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRMILL_HOME", str(folder))
        run_stages(configure(dataset, "train.steps=1"), ["autoencoder", "joint"])
    return folder


@pytest.fixture
def trained(dataset: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The configuration of the export, with folders of this test for evidence and bundle."""
    monkeypatch.setenv("SRMILL_HOME", str(home))
    folders = f"export.evidence={tmp_path / 'evidence'}", f"output={tmp_path / 'bundles'}"
    return configure(dataset, "train.steps=1", f"model={MODEL}", *folders)


def test_the_plan_says_where_the_bundle_goes(dataset: Path, tmp_path: Path) -> None:
    said = export.plan(configure(dataset, f"output={tmp_path}"))
    assert said == (
        "export run:small-decoder as ONNX (opset 20, LR tiles of 32x32 px) into the bundle "
        f"{tmp_path / 'small'}"
    )
    config = configure(dataset)
    assert export.output_location(config) == register.bundle_location(config)


@pytest.mark.parametrize("start", [export.plan, export.run])
def test_a_folder_of_somebody_else_is_not_replaced(
    dataset: Path, tmp_path: Path, start: Callable[[Config], object]
) -> None:
    thesis = tmp_path / "small" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("1")
    with pytest.raises(UserError, match=r"small holds files that SRMill did not write \(thesis"):
        start(configure(dataset, f"output={tmp_path}"))
    assert thesis.read_text() == "1"


def test_a_trained_run_becomes_a_bundle_with_its_evidence(
    trained: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_evidence(trained)
    directory = Path(export.run(trained))
    bundle = load_bundle(directory)
    facts, model = bundle.facts, load_model(ModelReference.parse(MODEL), trained)
    assert set(facts.files) == {
        "MODEL_CARD.md", "config.yaml", "edge/model_fp32.onnx", "finetuning.safetensors",
        "images.csv", "model.safetensors", "report.html",
    }  # fmt: skip
    assert facts.weights_sha256 == model.weights_sha256
    assert weights_sha256(load_file(directory / "model.safetensors")) == model.weights_sha256
    assert facts.manifest == model.provenance.manifest
    assert list(facts.metrics.benchmarks) == ["Set5", "Set14"]
    for found, image in zip(facts.metrics.benchmarks.values(), ("i", "another"), strict=True):
        assert (found.identity, found.degradation, found.num_images) == (image, "bicubic", 2)
        assert (found.model, found.bicubic) == ({"psnr": 29.0}, {"psnr": 28.0})
    assert facts.metrics.reference == "model"
    assert facts.metrics.by == results.metrics
    assert [row.method for row in from_csv(directory / IMAGES)] == ["model"]
    artifact = facts.edge["onnx_fp32"]
    assert artifact.parity.max_error <= trained.export.max_error
    assert (artifact.input.shape, artifact.output.shape) == ((1, 3, 32, 32), (1, 3, 128, 128))
    assert "edge/model_fp32.onnx" in (directory / "MODEL_CARD.md").read_text()

    # Again: it is there. Damaged, it is exported anew.
    capsys.readouterr()
    before = file_sha256(directory / "bundle.json")
    assert export.run(trained) == str(directory)
    assert "Nothing to do: run:small-joint is exported already" in capsys.readouterr().out
    assert file_sha256(directory / "bundle.json") == before
    (directory / "MODEL_CARD.md").write_text("another")
    modes = {path.stat().st_mode & 0o777 for path in directory.rglob("*") if path.is_file()}
    assert len(modes) == 1
    export.run(trained)
    assert "Exporting anew, since bundle" in capsys.readouterr().out
    assert load_bundle(directory).facts.weights_sha256 == model.weights_sha256


def test_the_parent_is_what_the_weights_descend_from_not_the_champion(
    trained: Config, tmp_path: Path
) -> None:
    write_evidence(trained)
    trained.export.artifacts = []
    first = load_bundle(Path(export.run(trained)))
    trained.bundle = str(first.path)
    register.run(trained)
    trained.export.weights = "fp16"
    shutil.rmtree(tmp_path / "evidence")
    write_evidence(trained)
    again = load_bundle(Path(export.run(trained)))
    assert again.facts.precision == "fp16"
    assert first.facts.parent_version is again.facts.parent_version is None
    # What is made of a registered model descends from it.
    trained.model = "models:/small@champion"
    write_evidence(trained, trained.model)
    assert load_bundle(Path(export.run(trained))).facts.parent_version == "models:/small/1"


def test_other_weights_and_damaged_evidence_are_refused(trained: Config, tmp_path: Path) -> None:
    model = load_model(ModelReference.parse(MODEL), trained)
    with pytest.raises(UserError, match="has not been measured as it is now: run jobs/evaluate"):
        find_evidence(trained.export, model, None)
    write_evidence(trained, weights_sha256="others")
    with pytest.raises(UserError, match="has not been measured as it is now: run jobs/evaluate"):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()
    path = tmp_path / "evidence" / "small-joint" / RESULTS
    path.write_text(path.read_text().replace('"scale": 4', '"scale": "4"'))
    with pytest.raises(UserError, match=r"results\.json is damaged \(scale: .* or run jobs/evalu"):
        export.run(trained)


def test_an_artifact_too_far_from_pytorch_is_refused(trained: Config) -> None:
    write_evidence(trained)
    trained.export.max_error = 1e-12
    with pytest.raises(UserError, match=r"onnx_fp32 differs from PyTorch by .*export\.max_error="):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()


def test_evidence_of_the_unrounded_weights_is_none_of_the_rounded_ones(trained: Config) -> None:
    write_evidence(trained)
    trained.export.weights = "fp16"
    with pytest.raises(UserError, match=r"has not been measured as it is now: .*weights=fp16"):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()


def test_an_artifact_that_computes_no_number_is_refused(
    trained: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evidence(trained)
    monkeypatch.setattr(OnnxRunner, "run", lambda _, x_l: torch.full((1, 3, 128, 128), torch.nan))
    with pytest.raises(UserError, match=r"onnx_fp32 differs from PyTorch by nan, more than"):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()


def test_evidence_and_bundle_in_a_bucket(
    trained: Config, s3_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evidence(trained)
    local, there = open_store(tmp_path / "evidence"), open_store(f"{s3_url}/evidence")
    for name in local.names():
        there.write(name, local.read(name))
    trained.export.evidence, trained.output = f"{s3_url}/evidence", f"{s3_url}/bundles"
    trained.export.artifacts = []
    location = export.run(trained)
    assert location == f"{s3_url}/bundles/small"
    facts = load_bundle(local_bundle(location)).facts
    assert open_store(location).names() == sorted([*facts.files, "bundle.json"])
    model = load_model(ModelReference.parse(location), trained)
    assert model.weights_sha256 == facts.weights_sha256

    # Again: it is there. Damaged, it is exported anew.
    capsys.readouterr()
    assert export.run(trained) == location
    assert f"is exported already, see {location}." in capsys.readouterr().out
    open_store(location).write("MODEL_CARD.md", b"another")
    with pytest.raises(UserError, match=r"MODEL_CARD\.md is missing or damaged"):
        load_model(ModelReference.parse(location), trained)
    export.run(trained)
    assert "Exporting anew, since bundle" in capsys.readouterr().out
    assert load_bundle(local_bundle(location)).digest
