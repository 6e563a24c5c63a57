"""The int8 graph of a quantised network computes what the network computes while it rounds."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from srmodels.compression.fake_quantisation import find_ranges, rounding
from srmodels.edge.onnx_int8 import OnnxA16W8, OnnxInt8
from srmodels.edge.target import ExportSettings
from srmodels.network import SRNetwork
from tests.srmodels.compression.test_fake_quantisation import make
from tests.srmodels.edge.test_onnx import names_of_int8

TILE = 32


def tiles() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(1, 3, TILE, TILE, generator=generator) for _ in range(4)]


def trained(quantised: str, trunk: str) -> SRNetwork:
    network = make(quantised, trunk)
    find_ranges(network, tiles())
    return network.eval()


@pytest.mark.parametrize("trunk", ["plain", "separable"])
@pytest.mark.parametrize(("quantised", "target"), [("int8", OnnxInt8()), ("a16w8", OnnxA16W8())])
def test_graph_and_rounded_network_agree_to_one_level(
    tmp_path: Path, quantised: str, target: OnnxInt8, trunk: str
) -> None:
    network, path = trained(quantised, trunk), tmp_path / target.file
    made = target.export(network, path, ExportSettings(TILE))
    assert made["ranges"] == "trained"
    runner = target.load(path)
    for image in tiles():
        with torch.no_grad(), rounding(network):
            expected = network(image)
        assert (runner.run(image) - expected).abs().max() <= 1 / 255


def test_products_run_as_integers(tmp_path: Path) -> None:
    path, target = tmp_path / "model.onnx", OnnxInt8()
    target.export(trained("int8", "plain"), path, ExportSettings(TILE))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    kinds = Counter(node.op_type for node in nodes)
    # The last one makes the image, in floating point.
    assert kinds["QLinearConv"] == 2


def test_weights_are_stored_as_int8(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    OnnxInt8().export(trained("int8", "plain"), path, ExportSettings(TILE))
    stored = onnx.load(path).graph.initializer
    large = [tensor for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT]
    assert max(onnx.numpy_helper.to_array(tensor).size for tensor in large) <= 48


def test_no_layer_shares_its_weights_or_zero_points(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    OnnxInt8().export(trained("int8", "plain"), path, ExportSettings(TILE))
    names = names_of_int8(path)
    assert len(set(names)) == len(names) == 9
