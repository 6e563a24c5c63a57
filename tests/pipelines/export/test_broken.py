"""Artifacts whose files are broken on purpose: each is caught by the check that should catch it."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import ExportConfig
from pipelines.export.artifacts import Exporter, MissedError
from pipelines.export.images import TileImages, tile_images
from pipelines.models.load import load_model
from srmodels.edge.onnx import OnnxFp16, OnnxFp32, OnnxRunner, OnnxTarget
from srmodels.edge.onnx_int8 import OnnxInt8
from srmodels.network import SRNetwork

TARGETS = {"onnx_fp32": OnnxFp32, "onnx_fp16": OnnxFp16, "onnx_int8": OnnxInt8}
#: Changes a graph where it is.
Break = Callable[[onnx.GraphProto], None]


class Enlarge(SRNetwork):
    """Enlarges what three convolutions leave nearly as it is."""

    scale, size_multiple = 4, 1

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"layers": self.layers}

    def forward(self, x_l: Tensor) -> Tensor:
        x = x_l
        for layer in self.layers:
            x = F.relu(layer(x))
        return F.interpolate(x, scale_factor=self.scale, mode="bilinear").clamp(0, 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TileImages:
    """Crops of the embedded photos."""
    nowhere = f"data={tmp_path_factory.mktemp('none') / 'nosuch'}"
    settings = ["model=rdsr", nowhere, "export.tile=32", "export.calibration_images=4"]
    config = load_config(settings)
    return tile_images(config, load_model(ModelReference.parse("rdsr"), config))


def make_exporter(images: TileImages, directory: Path) -> Exporter:
    settings = ExportConfig(tile=32, latency_runs=1, max_quality_loss=0.5)
    return Exporter(settings, Enlarge().eval(), images, directory)


@pytest.fixture
def exporter(images: TileImages, tmp_path: Path) -> Exporter:
    return make_exporter(images, tmp_path)


def swap_channels(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.input[:] = ["bgr" if name == "x_l" else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    graph.node.insert(0, helper.make_node("Gather", ["x_l", "order"], ["bgr"], axis=1))


def shift_a_border(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "Conv")
    pads = next(found for found in node.attribute if found.name == "pads")
    assert list(pads.ints) == [1, 1, 1, 1]
    pads.ints[:] = [2, 1, 0, 1]


def change_an_op(graph: onnx.GraphProto) -> None:
    next(node for node in graph.node if node.op_type == "Relu").op_type = "Tanh"


def saturate_a_layer(graph: onnx.GraphProto) -> None:
    """Makes the range of one layer's activations an eighth of what it was."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    scale = values[nodes[len(nodes) // 2].input[1]]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / 8, scale.name))


@dataclass(frozen=True)
class Sound:
    """A file that ships, and how it was made."""

    path: Path
    made: Mapping[str, str]


@pytest.fixture(scope="module")
def sound(images: TileImages, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sound]:
    """Exports a target once, as ever; its file ships."""

    @cache
    def export(name: str) -> Sound:
        exporter = make_exporter(images, tmp_path_factory.mktemp(name))
        artifact = exporter.export(name)
        assert artifact.quality.loss <= exporter.settings.max_quality_loss
        return Sound(exporter.directory / artifact.file, artifact.made)

    return export


def export_broken(
    name: str, broken: Break, sound: Callable[[str], Sound], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lets the target write the file that ships, with a break in its graph."""
    found = sound(name)

    def export(self: OnnxTarget, network: SRNetwork, path: Path, _: object) -> Mapping[str, str]:
        model = onnx.load(found.path)
        broken(model.graph)
        onnx.save(model, path)
        return found.made

    monkeypatch.setattr(TARGETS[name], "export", export)


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        ("onnx_fp32", swap_channels, "onnx_fp32 differs from PyTorch by"),
        ("onnx_fp32", shift_a_border, "onnx_fp32 differs from PyTorch by"),
        ("onnx_fp32", change_an_op, "onnx_fp32 differs from PyTorch by"),
        ("onnx_fp16", swap_channels, "onnx_fp16 loses .* dB of psnr_y_crop4"),
        ("onnx_fp16", shift_a_border, "onnx_fp16 loses .* dB of psnr_y_crop4"),
        ("onnx_fp16", change_an_op, "onnx_fp16 loses .* dB of psnr_y_crop4"),
        ("onnx_int8", saturate_a_layer, "onnx_int8 loses .* dB of psnr_y_crop4"),
    ],
)
def test_a_broken_graph_does_not_ship(
    exporter: Exporter,
    sound: Callable[[str], Sound],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    broken: Break,
    message: str,
) -> None:
    export_broken(name, broken, sound, monkeypatch)
    with pytest.raises(MissedError, match=message):
        exporter.export(name)
    assert not list((exporter.directory / "edge").iterdir())


def test_what_eyes_see_is_judged_too(
    exporter: Exporter,
    sound: Callable[[str], Sound],
    lpips: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter.settings.max_quality_loss = 100.0
    export_broken("onnx_fp16", change_an_op, sound, monkeypatch)
    with pytest.raises(MissedError, match=r"onnx_fp16 costs 0\.\d+ of LPIPS \(alex\) beside Py"):
        exporter.export("onnx_fp16")
    exporter.settings.max_lpips_loss = 1.0
    losses = {loss.metric: loss for loss in exporter.export("onnx_fp16").other_losses}
    assert list(losses) == ["ssim_y_crop4", "lpips_alex"]
    for loss in losses.values():
        assert loss.loss > 0.01
        assert loss.low is not None
        assert loss.high is not None
        assert loss.low < loss.loss < loss.high


@pytest.mark.parametrize("name", ["onnx_fp32", "onnx_fp16"])
def test_the_graph_of_another_model_does_not_ship(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = copy.deepcopy(exporter.network)
    for weight in other.parameters():
        weight.data.mul_(1.1)
    target = TARGETS[name]
    export = target.export
    monkeypatch.setattr(
        target, "export", lambda self, _, path, settings: export(self, other, path, settings)
    )
    with pytest.raises(MissedError, match=f"{name} (differs from PyTorch by|loses)"):
        exporter.export(name)
    assert not list((exporter.directory / "edge").iterdir())


def test_what_a_simulator_runs_is_not_timed(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A simulator takes minutes for a tile, so few are run, and each once."""
    tiles, run = [], OnnxRunner.run
    monkeypatch.setattr(OnnxFp32, "simulated", True)
    monkeypatch.setattr(OnnxFp32, "most_pairs", 2)
    monkeypatch.setattr(OnnxRunner, "run", lambda self, x: (tiles.append(x), run(self, x))[1])
    artifact = exporter.export("onnx_fp32")
    assert (artifact.latency, artifact.latency_ratio) == (None, None)
    assert artifact.parity.num_images == artifact.quality.num_images == 2
    assert {loss.low for loss in (artifact.quality, *artifact.other_losses)} == {None}
    assert [id(x) for x in tiles] == [
        id(pair.x_l) for pair in (*exporter.images.pairs[:2], exporter.images.pairs[0])
    ]
    assert "; 0.0 MiB, run in a simulator, and not timed\n" in capsys.readouterr().out


def test_what_is_not_timed_may_be_judged_by_all_pairs(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxFp32, "simulated", True)
    artifact = exporter.export("onnx_fp32")
    assert artifact.latency is None
    assert artifact.quality.num_images == len(exporter.images.pairs) > 2
    assert artifact.quality.low is not None


def test_what_a_delegate_would_leave_to_the_cpu_can_be_refused(exporter: Exporter) -> None:
    exporter.settings.delegates = ["nnapi", "coreml"]
    made = exporter.export("onnx_fp32").made
    assert made["NNAPI"].startswith("all ")
    assert made["Core ML"] == made["NNAPI"]
    exporter.settings.delegates = ["coreml"]
    with pytest.raises(
        MissedError,
        match=r"Core ML would not take all of onnx_int8 \(.* not taken: DequantizeLinear, Quanti.*"
        r"and export\.delegates names it: choose .* or leave coreml out",
    ):
        exporter.export("onnx_int8")
    assert [path.name for path in (exporter.directory / "edge").iterdir()] == ["model_fp32.onnx"]
    exporter.settings.delegates = ["nnapi"]
    assert "Core ML" in exporter.export("onnx_int8").made
