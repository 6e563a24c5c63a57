"""The export job: what a bundle of a trained run holds, and what it refuses."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import open_method
from pipelines.evaluation.results import REPORT, RESULTS, EvaluationResults, from_csv, to_csv
from pipelines.export import export
from pipelines.export.evidence import find_evidence
from pipelines.models.bundle import IMAGES, load_bundle, local_bundle, seal
from pipelines.models.load import at_precision, load_model, weights_sha256
from pipelines.registry import register
from pipelines.storage.files import file_sha256
from pipelines.storage.paths import home as home_folder
from pipelines.storage.store import open_store
from pipelines.storage.typed import to_json
from srmodels.edge.onnx import OnnxFp16, OnnxRunner
from srmodels.edge.target import ExportSettings
from srmodels.network import SRNetwork
from tests.pipelines.export.conftest import MODEL
from tests.support.results import BENCHMARK, make_results
from tests.support.training import configure


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
def half(dataset: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's weights as an ONNX file in fp16."""
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRMILL_HOME", str(home))
        network = load_model(ModelReference.parse(MODEL), configure(dataset)).network
    OnnxFp16().export(network, path, ExportSettings(tile=32))
    return path


def test_the_plan_says_where_the_bundle_goes(dataset: Path, tmp_path: Path) -> None:
    said = export.plan(configure(dataset, f"output={tmp_path}"))
    assert said == (
        "export run:small-decoder as onnx_fp32 (ONNX opset 20, LR tiles of 32x32 px) into the "
        f"bundle {tmp_path / 'small'}"
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
        "MLmodel", "MODEL_CARD.md", "config.yaml", "edge/model_fp32.onnx", "finetuning.safetensors",
        "sbom.cdx.json",
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
    assert artifact.quality.images == "validation tiles"
    assert artifact.quality.num_images > 1
    assert abs(artifact.quality.loss) < 0.01
    assert artifact.latency_ratio > 0
    assert artifact.made["onnx"]
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
    trained.export.max_error, trained.export.strict = 1e-12, True
    with pytest.raises(UserError, match=r"onnx_fp32 differs from PyTorch by .*export\.max_error="):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()


def test_an_artifact_that_misses_its_threshold_is_left_out(
    trained: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evidence(trained)
    trained.export.artifacts = ["onnx_fp32", "onnx_fp32_dynamic", "onnx_fp16"]
    trained.export.max_error = 1e-12
    bundle = load_bundle(Path(export.run(trained)))
    assert list(bundle.facts.edge) == ["onnx_fp16"]
    assert bundle.facts.left_out["onnx_fp32_dynamic"] == (
        "onnx_fp32_dynamic cannot be made of this model: these networks are exported for one tile "
        "size alone."
    )
    assert "left out: onnx_fp32 differs from PyTorch by" in capsys.readouterr().out
    assert bundle.facts.left_out["onnx_fp32"].startswith("onnx_fp32 differs from PyTorch by")
    assert "Left out: onnx_fp32 differs" in (bundle.path / "MODEL_CARD.md").read_text()
    assert [path.name for path in (bundle.path / "edge").iterdir()] == ["model_fp16.onnx"]
    # With another threshold it is another bundle.
    trained.export.max_error = 1e-4
    assert list(load_bundle(Path(export.run(trained))).facts.edge) == ["onnx_fp32", "onnx_fp16"]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda x_h: x_h.flip(1), id="swapped channels"),
        pytest.param(lambda x_h: x_h.roll(1, -1), id="a border off by one"),
        pytest.param(lambda x_h: x_h.clamp(0.4, 0.6), id="a saturated layer"),
        pytest.param(lambda x_h: 1 - x_h, id="a wrong op"),
    ],
)
def test_an_artifact_that_costs_too_much_is_refused(
    trained: Config,
    half: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[Tensor], Tensor],
) -> None:
    write_evidence(trained)
    trained.export.artifacts, trained.export.strict = ["onnx_fp16"], True

    def export_half(
        self: OnnxFp16, network: SRNetwork, path: Path, settings: ExportSettings
    ) -> dict[str, str]:
        shutil.copy(half, path)
        return {}

    monkeypatch.setattr(OnnxFp16, "export", export_half)
    run = OnnxRunner.run
    monkeypatch.setattr(OnnxRunner, "run", lambda self, x_l: broken(run(self, x_l)))
    with pytest.raises(
        UserError, match=r"onnx_fp16 loses .* dB of psnr_y_crop4 beside PyTorch, mo"
    ):
        export.run(trained)
    assert not Path(export.output_location(trained)).exists()


def test_a_bundle_needs_neither_a_dataset_nor_an_evaluation(
    trained: Config, tmp_path: Path
) -> None:
    write_evidence(trained)
    trained.export.artifacts = []
    first = load_bundle(Path(export.run(trained)))
    trained.model, trained.output = str(first.path), str(tmp_path / "again")
    trained.data, trained.export.evidence = str(tmp_path / "nosuch"), str(tmp_path / "none")
    trained.export.artifacts, trained.export.calibration_images = ["onnx_fp32", "onnx_int8"], 3
    # Hardly trained weights say how well a network quantises as little as they say of photos.
    trained.export.max_quality_loss = 10.0
    again = load_bundle(Path(export.run(trained)))
    assert again.facts.metrics == first.facts.metrics
    assert again.facts.files["images.csv"] == first.facts.files["images.csv"]
    assert again.facts.weights_sha256 == first.facts.weights_sha256
    assert list(again.facts.edge) == ["onnx_fp32", "onnx_int8"]
    for artifact in again.facts.edge.values():
        assert (artifact.quality.num_images, artifact.quality.images) == (
            16,
            "crops of the embedded photos",
        )
    assert again.facts.edge["onnx_int8"].made["calibration"].endswith(", 3 images")
    # A run has its own data, and no other stands in for them.
    trained.model, trained.output = MODEL, str(tmp_path / "third")
    write_evidence(trained)
    with pytest.raises(UserError, match="there is no dataset in"):
        export.run(trained)


def test_an_artifact_is_measured_like_any_other_method(trained: Config, tmp_path: Path) -> None:
    write_evidence(trained)
    trained.export.artifacts = ["onnx_fp32", "onnx_fp16"]
    trained.export.max_quality_loss = 10.0
    bundle = load_bundle(Path(export.run(trained)))
    lr = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    model = open_method(ModelReference.parse(str(bundle.path)), trained)
    found = {}
    for name, artifact in bundle.facts.edge.items():
        file = bundle.path / artifact.file
        method = open_method(ModelReference.parse(f"artifact:{file}"), trained)
        assert (method.title, method.scale) == (f"small ({name})", 4)
        assert method.file_bytes == file.stat().st_size
        # Elsewhere it does the same.
        found[name] = pickle.loads(pickle.dumps(method))(lr).astype(int)
        assert (found[name] == method(lr)).all()
    assert np.abs(found["onnx_fp32"] - model(lr)).max() <= 1
    assert 0 < np.abs(found["onnx_fp16"] - model(lr)).max() < 30
    notes = bundle.path / "edge" / "notes.txt"
    notes.write_text("of somebody")
    seal(bundle.path, bundle.facts)
    with pytest.raises(
        UserError, match=r"notes.txt is no artifact of its bundle: name .*fp32\.onn"
    ):
        open_method(ModelReference.parse(f"artifact:{notes}"), trained)


def test_what_ships_is_exported_under_its_own_name() -> None:
    config = load_config(["model=rdsr"])
    assert export.output_location(config) == str(home_folder() / "work" / "export" / "rdsr")


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
    trained.export.strict = True
    monkeypatch.setattr(OnnxRunner, "run", lambda _, x_l: torch.full((1, 3, 128, 128), torch.nan))
    for name in ("onnx_fp32", "onnx_fp16"):
        trained.export.artifacts = [name]
        with pytest.raises(UserError, match=f"{name} differs from PyTorch by nan, more than"):
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
