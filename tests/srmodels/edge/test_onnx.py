import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.config.load import load_config
from srmodels.edge.onnx import OnnxFp16, OnnxFp32
from srmodels.edge.onnx_int8 import OnnxA16W8, OnnxInt8
from srmodels.edge.onnx_sharing import unshare
from srmodels.edge.target import (
    TARGETS,
    Calibration,
    Cost,
    ExportSettings,
    Parity,
    Runner,
    check_parity,
    make_target,
)
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.latency import Latency, time_by_turns
from srmodels.network import SRNetwork
from tests.conftest import ROOT, SMALL


@pytest.fixture(scope="module")
def network() -> EdgeSDSR:
    torch.manual_seed(0)
    network = EdgeSDSR(load_config([f"recipe={SMALL}"]).networks).eval()
    # Zero at the start of training: give the UNet something to say.
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    return network


def test_the_file_computes_what_pytorch_does(network: EdgeSDSR, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    OnnxFp32().export(network, path, ExportSettings(tile=32, opset=20))
    runner = OnnxFp32().load(path, threads=1)
    images = [torch.rand(1, 3, 32, 32) for _ in range(3)]
    parity = check_parity(network, runner, images)
    assert parity.num_images == 3
    assert parity.max_error < 1e-5
    assert parity.sqnr_db > 100
    times = time_by_turns({"": lambda: runner.run(images[0])}, runs=3, warm_up=3)
    latency = Latency.of(32, times[""], threads=1)
    assert 0 < latency.low_ms <= latency.median_ms <= latency.high_ms


def test_the_file_names_no_folder_of_this_machine(network: EdgeSDSR, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    OnnxFp32().export(network, path, ExportSettings(tile=32, opset=20))
    data = path.read_bytes()
    for name in (ROOT, tmp_path, "network.py"):
        assert str(name).encode() not in data


def test_parity_sees_a_difference(network: EdgeSDSR, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    OnnxFp32().export(network, path, ExportSettings(tile=32, opset=20))
    torch.manual_seed(5)
    other = EdgeSDSR(network.config).eval()
    assert (
        check_parity(other, OnnxFp32().load(path, 1), [torch.rand(1, 3, 32, 32)]).max_error > 1e-4
    )


def test_a_tile_that_the_network_cannot_take_is_refused(network: EdgeSDSR, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a multiple of 4"):
        OnnxFp32().export(network, tmp_path / "model.onnx", ExportSettings(tile=30))
    assert not list(tmp_path.iterdir())


def test_half_precision_keeps_its_input_and_output(network: EdgeSDSR, tmp_path: Path) -> None:
    path, settings = tmp_path / "model.onnx", ExportSettings(tile=32)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    OnnxFp16().export(network, path, settings)
    parity = check_parity(network, OnnxFp16().load(path, 1), [torch.rand(1, 3, 32, 32)])
    assert 1e-5 < parity.max_error < 1e-2
    weighty = [w for w in onnx.load(path).graph.initializer if len(w.dims) > 1]
    assert {w.data_type for w in weighty} == {onnx.TensorProto.FLOAT16}
    assert all(torch.equal(weight, weights[n]) for n, weight in network.state_dict().items())


@pytest.mark.parametrize("name", ["onnx_fp32", "onnx_fp32_dynamic"])
def test_weights_that_fp16_holds_take_half_the_room_and_change_nothing(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    network, settings = Plain(widths=(3, 32, 32, 32, 48)).eval(), ExportSettings(tile=16)
    exact, rounded = tmp_path / "exact.onnx", tmp_path / "rounded.onnx"
    make_target(name).export(network, exact, settings)
    network.half().float()
    make_target(name).export(network, rounded, settings)
    x_l = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        expected = network(x_l)
    assert (make_target(name).load(rounded, 1).run(x_l) - expected).abs().max() < 1e-5
    weights = sum(p.nbytes for p in network.parameters())
    assert exact.stat().st_size - rounded.stat().st_size > 0.4 * weights
    for file, stored in ((exact, onnx.TensorProto.FLOAT), (rounded, onnx.TensorProto.FLOAT16)):
        onnx.checker.check_model(str(file), full_check=True)
        large = [w for w in onnx.load(file).graph.initializer if len(w.dims) == 4]
        assert [w.data_type for w in large].count(stored) == 3 + (file == exact)
        assert onnx.load(file).graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


class Plain(SRNetwork):
    """Enlarges by four convolutions, whose scales differ."""

    scale, size_multiple = 4, 1

    def __init__(self, widths: Sequence[int] = (3, 8, 8, 8, 48)) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in pairwise(widths))

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"layers": self.layers}

    def forward(self, x_l: Tensor) -> Tensor:
        x = x_l
        for layer in self.layers:
            x = torch.tanh(3 * layer(x))
        return F.pixel_shuffle(x, self.scale)


def cost_of(loss: float, max_loss: float) -> Cost:
    """Returns what a loss in dB costs."""
    return Cost(loss / max_loss, f"{loss:+.3f} dB")


def quantised(
    path: Path,
    max_loss: float,
    target: OnnxInt8 | None = None,
    network: SRNetwork | None = None,
) -> tuple[Parity, Mapping[str, str], list[str]]:
    """Exports int8, or what `target` says, judged by its distance from PyTorch; returns that, what
    was made, and told."""
    torch.manual_seed(3)
    network = (network or Plain()).eval()
    images = [torch.rand(1, 3, 16, 16) for _ in range(4)]
    told: list[str] = []

    def cost(runner: Runner) -> Cost:
        return cost_of(60 - check_parity(network, runner, images[2:]).sqnr_db, max_loss)

    calibration = Calibration(images[:2], cost, told.append)
    settings = ExportSettings(tile=16, calibration=calibration)
    made = (target or OnnxInt8()).export(network, path, settings)
    return check_parity(network, OnnxInt8().load(path, 1), images[2:]), made, told


def test_the_ranges_that_cost_least_are_kept(tmp_path: Path) -> None:
    parity, made, told = quantised(tmp_path / "model.onnx", max_loss=100.0)
    losses = {line.partition(":")[0]: float(line.split()[1]) for line in told}
    assert set(losses) == {"minmax", "percentile", "entropy"}
    best = min(losses, key=lambda method: losses[method])
    assert made["calibration"] == f"{best}, 2 images"
    assert made["layers in fp32"] == "none"
    assert 60 - parity.sqnr_db == pytest.approx(losses[best], abs=0.11)
    assert parity.sqnr_db > 30
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) > 4


def test_activations_of_sixteen_bits_cost_next_to_nothing(tmp_path: Path) -> None:
    coarse, _, _ = quantised(tmp_path / "model.onnx", max_loss=100.0)
    fine, made, told = quantised(tmp_path / "fine.onnx", max_loss=100.0, target=OnnxA16W8())
    assert [line.partition(":")[0] for line in told] == ["minmax"]
    assert made["calibration"] == "minmax, 2 images"
    assert fine.sqnr_db > coarse.sqnr_db + 5
    graph = onnx.load(tmp_path / "fine.onnx").graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    types = {tensor.data_type for tensor in graph.initializer if tensor.name in zeros}
    assert types == {onnx.TensorProto.UINT16}


def test_layers_stay_in_fp32_until_little_is_lost(tmp_path: Path) -> None:
    first, _, told = quantised(tmp_path / "model.onnx", max_loss=100.0)
    wanted = 60 - first.sqnr_db - 1
    parity, made, told = quantised(tmp_path / "model.onnx", max_loss=wanted)
    spared = made["layers in fp32"].split(", ")
    assert 0 < len(spared) < 4
    assert "sparing each of 4 layers" in " ".join(told)
    assert 60 - parity.sqnr_db <= wanted + 0.11
    # One less would not have been enough.
    fewer = [line for line in told if f" {len(spared) - 1} layers spared" in line]
    assert all(float(line.split(": ")[1].split()[0]) > wanted for line in fewer)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    kept = [node for node in nodes if node.name in spared]
    assert len(kept) == len(spared)
    assert all(made_by.get(node.input[1]) != "DequantizeLinear" for node in kept)


def test_every_target_is_found_by_its_name_and_no_other_is() -> None:
    assert "onnx_fp32" in TARGETS
    for name in TARGETS:
        if name.startswith("onnx"):  # the others need packages of their own
            assert make_target(name).file
    with pytest.raises(ValueError, match="no edge target 'onnx_int1': use one of onnx_fp32"):
        make_target("onnx_int1")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("coreml_fp16", "coremltools"),
        ("executorch_fp32", "executorch"),
        ("litert_fp32", "ai_edge_litert"),
        ("ncnn_fp16", "pnnx"),
        ("ncnn_int8", "ncnn"),
        ("openvino_int8", "nncf"),
        ("qnn_sm8650", "onnxruntime_qnn"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = name.partition("_")[0]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"srmodels.edge.{runtime}", raising=False)
    with pytest.raises(ValueError, match=rf"{name} needs the package \w+: .*'\.\[{runtime}\]'\.$"):
        make_target(name)


def names_of_int8(path: Path) -> list[str]:
    """Returns the tensors that the graph's DequantizeLinear nodes of weights read."""
    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    return [name for node in nodes if node.input[0] in stored for name in node.input]


def test_layers_that_share_weights_get_their_own(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    quantised(path, max_loss=100.0)
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and stored.get(node.input[0], onnx.TensorProto()).dims
    ]
    # The second and the third layer have the same shape.
    first, second = [each for each in layers if list(stored[each.input[0]].dims) == [8, 8, 3, 3]]
    x_l = torch.rand(1, 3, 16, 16)
    different = OnnxInt8().load(path, 1).run(x_l)
    for name, other in zip(first.input, second.input, strict=True):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(stored[name])
        tensor.name = other
        stored[other].CopyFrom(tensor)
    onnx.save(model, path)
    equal = OnnxInt8().load(path, 1).run(x_l)
    assert not torch.equal(different, equal)
    second.input[:] = first.input
    onnx.save(model, path)
    unshare(path)
    assert torch.equal(OnnxInt8().load(path, 1).run(x_l), equal)
    assert len(set(names_of_int8(path))) == len(names_of_int8(path))
    assert len(onnx.load(path).graph.initializer) == len(stored)


def test_an_exported_graph_shares_no_int8_weights(tmp_path: Path) -> None:
    network = Plain()
    network.layers[2] = network.layers[1]
    path = tmp_path / "model.onnx"
    quantised(path, max_loss=100.0, network=network)
    names = names_of_int8(path)
    assert names
    assert len(set(names)) == len(names)
