"""Edge targets beyond ONNX: exported, loaded and compared, for both systems that ship."""

import hashlib
import os
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.evaluation.methods import ArtifactFile
from pipelines.export import export
from pipelines.export.artifacts import Exporter, MissedError
from pipelines.export.images import tile_images
from pipelines.models.artifacts import load_artifact
from pipelines.models.bundle import Bundle, load_bundle
from pipelines.models.load import load_model
from srmodels.edge.fresh import run_fresh
from srmodels.edge.target import (
    TARGETS,
    Calibration,
    ExportSettings,
    Runner,
    check_parity,
    make_target,
)
from srmodels.network import SRNetwork
from tests.srmodels.edge.test_onnx import cost_of

TILE = 64
PACKAGES = {
    "coreml": "coremltools",
    "executorch": "executorch",
    "litert": "ai_edge_litert",
    "ncnn": "pnnx",
    "openvino": "nncf",
    "qnn": "onnxruntime_qnn",
}
#: The least ratio of signal to noise, dB: what the precision allows, with some to spare.
LEAST = {"fp32": 100.0, "fp16": 35.0, "int8": 18.0}


def skip_without_packages(name: str) -> None:
    runtime = name.partition("_")[0]
    pytest.importorskip(PACKAGES[runtime], reason=f"pip install -e '.[{runtime}]'")
    if runtime == "litert" and "SRMILL_LITERT_PYTHON" not in os.environ:
        pytest.skip("SRMILL_LITERT_PYTHON is not set")


def network(model: str) -> SRNetwork:
    return load_model(ModelReference.parse(model), load_config([f"model={model}"])).network


def tiles(count: int) -> list[Tensor]:
    """Smooth pictures, which are nearer to photos than noise is."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    found = torch.nn.functional.interpolate(coarse, TILE, mode="bicubic").clamp(0, 1)
    # As photos come: the channels of a pixel beside each other.
    return list(found.to(memory_format=torch.channels_last).split(1))


def bundle_of(model: str, names: list[str], folder: Path) -> Bundle:
    config = load_config(
        [
            f"model={model}",
            f"output={folder}",
            f"export.artifacts=[{','.join(names)}]",
            f"export.tile={TILE}",
            "export.latency_runs=2",
        ]
    )
    return load_bundle(Path(export.run(config)))


@pytest.mark.parametrize("model", ["edge_sd_sr_tiny", "f2srgan_student_pixel", "rdsr"])
@pytest.mark.parametrize("name", [n for n in TARGETS if not n.startswith(("onnx", "qnn"))])
def test_an_artifact_computes_what_pytorch_does(name: str, model: str, tmp_path: Path) -> None:
    skip_without_packages(name)
    target, ours = make_target(name), network(model)
    weights = {key: weight.clone() for key, weight in ours.state_dict().items()}
    path, images, told = tmp_path / target.file, tiles(6), []
    calibration = Calibration(images[:4], lambda runner: cost_of(0.0, 1.0), told.append)
    made = target.export(ours, path, ExportSettings(TILE, calibration=calibration))
    written = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert written == set(target.files)
    assert "torch" in made
    runner = target.load(path, 1)
    if (name, model) == ("ncnn_int8", "edge_sd_sr_tiny"):
        # Its linear layers are those of attention, which ncnn does not take in int8.
        assert "proj" in made["layers in fp16"]
    parity = check_parity(ours, runner, images[4:])
    assert parity.sqnr_db > LEAST[name.rpartition("_")[2]]
    assert parity.max_error < 1e-4 or not target.exact
    assert bool(told) == target.quantises
    fresh = run_fresh(name, path, images[4], 1)
    torch.testing.assert_close(fresh.x_h, runner.run(images[4]), rtol=0, atol=1e-4)
    # The network itself stays as it was.
    assert all(torch.equal(weight, weights[key]) for key, weight in ours.state_dict().items())


def test_no_two_artifacts_of_a_bundle_share_a_file() -> None:
    for name in TARGETS:
        if not name.startswith("onnx"):
            skip_without_packages(name)
    files = [file for name in TARGETS for file in make_target(name).files]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("name", [n for n in TARGETS if not n.startswith("onnx")])
def test_a_file_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    skip_without_packages(name)
    target = make_target(name)
    for file in target.files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"no artifact at all" * 100)
    with pytest.raises(ValueError, match=target.file):
        target.load(tmp_path / target.file)


@pytest.mark.parametrize("name", ["ncnn_int8", "openvino_int8"])
def test_a_quantised_model_that_costs_too_much_gets_its_precision_back(
    name: str, tmp_path: Path
) -> None:
    skip_without_packages(name)
    target, ours, images = make_target(name), network("rdsr"), tiles(6)

    def loss(runner: object) -> float:
        return 60 - check_parity(ours, runner, images[4:]).sqnr_db  # type: ignore[arg-type]

    def export_with(max_loss: float) -> float:
        calibration = Calibration(images[:4], lambda runner: cost_of(loss(runner), max_loss))
        target.export(ours, tmp_path / target.file, ExportSettings(TILE, calibration=calibration))
        return loss(target.load(tmp_path / target.file, 1))

    lost = export_with(100.0)
    assert export_with(lost - 1) < lost


def test_an_int8_artifact_of_which_nothing_is_int8_is_refused(tmp_path: Path) -> None:
    skip_without_packages("openvino_int8")
    target, ours, images = make_target("openvino_int8"), network("light_mobile"), tiles(5)

    def loss(runner: Runner) -> float:
        return 0.0 if check_parity(ours, runner, images[4:]).sqnr_db > 70 else 9.0

    calibration = Calibration(images[:4], lambda runner: cost_of(loss(runner), 0.1))
    with pytest.raises(ValueError, match="none would be in int8"):
        target.export(ours, tmp_path / target.file, ExportSettings(TILE, calibration=calibration))


def test_the_bundle_of_a_shipped_model_runs_on_every_runtime(tmp_path: Path) -> None:
    names = ["executorch_fp32", "litert_fp32", "ncnn_fp16", "openvino_fp16"]
    for name in names:
        skip_without_packages(name)
    config = load_config(["model=edge_sd_sr_tiny"])
    bundle = bundle_of("edge_sd_sr_tiny", names, tmp_path)
    assert list(bundle.facts.edge) == names
    assert set(bundle.facts.files) > {
        f"edge/{file}" for name in names for file in make_target(name).files
    }
    for name, artifact in bundle.facts.edge.items():
        found = {each.name: each.shape for each in (artifact.input, artifact.output)}
        shapes = (3, TILE, TILE), (3, 4 * TILE, 4 * TILE)
        if name == "ncnn_fp16":
            assert found == {"in0": shapes[0], "out0": shapes[1]}
        else:
            assert found == {"x_l": (1, *shapes[0]), "x_h": (1, *shapes[1])}
    model, x_l = load_model(ModelReference.parse(str(bundle.path)), config), tiles(1)[0]
    with torch.inference_mode():
        expected = model.network(x_l)
    for runtime in (name.partition("_")[0] for name in names):
        found = load_artifact(model, runtime)
        assert found.tiling.tile == TILE
        assert (found.run(x_l) - expected).abs().max() < 0.05


def test_ncnn_tells_what_vulkan_takes(tmp_path: Path) -> None:
    skip_without_packages("ncnn_fp16")
    target = make_target("ncnn_fp16")
    target.export(network("light_mobile"), tmp_path / target.file, ExportSettings(TILE))
    found = target.delegations(tmp_path / target.file)["vulkan"]
    assert (found.left, found.parts) == ((), 1)
    layers = "ReLU a 1 1 in0 x\nFold b 1 1 x y 1=1\nReLU c 1 1 y out0\n"
    (tmp_path / target.file).write_text(f"7767517\n4 4\nInput in0 0 1 in0\n{layers}")
    found = target.delegations(tmp_path / target.file)["vulkan"]
    assert str(found) == "2 of 3 nodes in 2 parts; not taken: Fold"


def test_executorch_tells_what_xnnpack_took(tmp_path: Path) -> None:
    skip_without_packages("executorch_fp32")
    target = make_target("executorch_fp32")
    found = {}
    for model in ("light_mobile", "edge_sd_sr_tiny"):
        target.export(network(model), tmp_path / target.file, ExportSettings(TILE))
        found[model] = target.delegations(tmp_path / target.file)["xnnpack"]
    # Plain convolutions are one part; group norms and attention cut a UNet in many.
    assert found["light_mobile"].parts == 1
    assert found["light_mobile"].left == ("_to_dim_order_copy",)
    assert found["edge_sd_sr_tiny"].parts > 5
    assert "native_group_norm" in found["edge_sd_sr_tiny"].left
    assert str(found["light_mobile"]).startswith("all but ")


def test_a_simulator_runs_what_the_npu_would(tmp_path: Path) -> None:
    skip_without_packages("qnn_sm8650")
    target, ours = make_target("qnn_sm8650"), network("light_mobile")
    path, settings = tmp_path / target.file, ExportSettings(32)
    made = target.export(ours, path, settings)
    assert made["soc_model"] == "57"
    [node] = onnx.load(path).graph.node
    assert node.op_type == "EPContext"
    parity = check_parity(ours, target.load(path), [tiles(1)[0][..., :32, :32].contiguous()])
    assert parity.sqnr_db > 50  # it computes in fp16
    digest = hashlib.sha256(path.read_bytes())
    target.export(ours, path, settings)
    assert hashlib.sha256(path.read_bytes()).digest() == digest.digest()
    other = make_target("qnn_sm8750")
    other.export(ours, path, settings)
    assert hashlib.sha256(path.read_bytes()).digest() != digest.digest()


def test_the_npu_takes_a_network_whole_or_not_at_all(tmp_path: Path) -> None:
    skip_without_packages("qnn_sm8650")

    class Transforms(SRNetwork):
        scale, size_multiple = 4, 1

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1)

        def inference_modules(self) -> dict[str, torch.nn.Module]:
            return {"layer": self.layer}

        def forward(self, x_l: Tensor) -> Tensor:
            x = torch.fft.rfft2(self.layer(x_l)).abs()
            return torch.nn.functional.interpolate(x, size=(128, 128))

    target = make_target("qnn_sm8650")
    with pytest.raises(ValueError, match="QNN cannot compile it"):
        target.export(Transforms().eval(), tmp_path / target.file, ExportSettings(32))
    assert not list(tmp_path.iterdir())
    # A graph that is no context binary would be compiled at its load, for this time alone.
    plain = make_target("onnx_fp32")
    plain.export(network("light_mobile"), tmp_path / target.file, ExportSettings(32))
    with pytest.raises(ValueError, match="is no graph that onnxruntime-qnn"):
        target.load(tmp_path / target.file)


def test_int8_of_ncnn_is_written_as_int8(tmp_path: Path) -> None:
    skip_without_packages("ncnn_int8")
    ours, images, sizes = network("light_mobile"), tiles(5), {}
    calibration = Calibration(images[:4], lambda runner: cost_of(0.0, 1.0))
    for name in ("ncnn_fp16", "ncnn_int8"):
        target = make_target(name)
        made = target.export(
            ours, tmp_path / target.file, ExportSettings(TILE, calibration=calibration)
        )
        sizes[name] = sum((tmp_path / file).stat().st_size for file in target.files[1:])
    assert sizes["ncnn_int8"] < 0.6 * sizes["ncnn_fp16"]
    assert made["layers in fp16"] == "none"
    lines = (tmp_path / target.file).read_text().splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("Convolution")] == ["8=1"] * 7


def test_core_ml_packages_are_the_same_each_time(tmp_path: Path) -> None:
    skip_without_packages("coreml_fp16")
    target, digests = make_target("coreml_fp16"), []
    for number in "12":
        path = tmp_path / number / target.file
        target.export(network("light_mobile"), path, ExportSettings(TILE))
        files = (tmp_path / number / file for file in target.files)
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    # A day later, too.
    assert b"conversion_date" not in (tmp_path / "1" / target.files[1]).read_bytes()


class Folding(SRNetwork):
    """Enlarges by an operator that Core ML has and that our reader of its programs lacks."""

    scale, size_multiple = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

    def inference_modules(self) -> dict[str, torch.nn.Module]:
        return {"layer": self.layer}

    def forward(self, x_l: Tensor) -> Tensor:
        x = self.layer(x_l).sin()
        return torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")


def test_a_network_that_cannot_be_checked_is_refused_by_name(tmp_path: Path) -> None:
    skip_without_packages("coreml_fp16")
    target = make_target("coreml_fp16")
    with pytest.raises(ValueError, match="operators that are not known here: sin"):
        target.export(Folding(), tmp_path / target.file, ExportSettings(TILE))


@pytest.mark.parametrize("damage", [b"conv", b"relu", b"pixel_shuffle"])
def test_a_program_of_core_ml_with_another_operator_is_refused(
    damage: bytes, tmp_path: Path
) -> None:
    skip_without_packages("coreml_fp16")
    target = make_target("coreml_fp16")
    path = tmp_path / target.file
    target.export(network("light_mobile"), path, ExportSettings(TILE))
    assert target.load(path)
    model = tmp_path / target.files[1]
    content = model.read_bytes()
    assert damage in content
    model.write_bytes(content.replace(damage, damage[:-1] + b"?"))
    with pytest.raises(ValueError, match="no program of Core ML"):
        target.load(path)


def test_a_package_of_core_ml_lies_in_a_bundle_with_all_its_files(tmp_path: Path) -> None:
    skip_without_packages("coreml_fp16")
    bundle = bundle_of("light_mobile", ["coreml_fp16"], tmp_path)
    artifact = bundle.facts.edge["coreml_fp16"]
    assert artifact.file == "edge/model_fp16.mlpackage/Manifest.json"
    assert set(bundle.facts.files) > {f"edge/{f}" for f in make_target("coreml_fp16").files}
    assert [artifact.file, *artifact.others] == [
        f"edge/{f}" for f in make_target("coreml_fp16").files
    ]
    assert artifact.latency is None
    assert artifact.quality.num_images == 16
    method = ArtifactFile("artifact", bundle.path / artifact.file)
    assert method.run(tiles(1)[0]).shape == (1, 3, 4 * TILE, 4 * TILE)
    assert "not by Core ML" in artifact.made["run by"]


def test_of_a_package_that_misses_its_threshold_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_packages("coreml_fp16")

    def fail(*arguments: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("pipelines.export.artifacts.run_fresh", fail)
    config = load_config(["model=light_mobile", f"export.tile={TILE}"])
    model = load_model(ModelReference.parse("light_mobile"), config)
    exporter = Exporter(config.export, model.network, tile_images(config, model), tmp_path)
    with pytest.raises(MissedError, match="does not run in a process of its own"):
        exporter.export("coreml_fp16")
    assert not list((tmp_path / "edge").iterdir())
