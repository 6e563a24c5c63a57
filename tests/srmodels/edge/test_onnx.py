from pathlib import Path

import pytest
import torch

from pipelines.config import load_config
from srmodels.edge.onnx import OnnxRunner, check_parity, export_onnx, measure_latency
from srmodels.edge_sd_sr.network import EdgeSDSR
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def network() -> EdgeSDSR:
    torch.manual_seed(0)
    network = EdgeSDSR(load_config([f"recipe={SMALL}"]).networks).eval()
    # Zero at the start of training: give the UNet something to say.
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    return network


def test_the_file_computes_what_pytorch_does(network: EdgeSDSR, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(network, path, tile=32, opset=20)
    runner = OnnxRunner(path, threads=1)
    images = [torch.rand(1, 3, 32, 32) for _ in range(3)]
    parity = check_parity(network, runner, images)
    assert parity.num_images == 3
    assert parity.max_error < 1e-5
    assert parity.sqnr_db > 100
    latency = measure_latency(path, images[0], runs=3, threads=1)
    assert 0 < latency.min_ms <= latency.median_ms <= latency.max_ms


def test_parity_sees_a_difference(network: EdgeSDSR, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(network, path, tile=32, opset=20)
    torch.manual_seed(5)
    other = EdgeSDSR(network.config).eval()
    assert check_parity(other, OnnxRunner(path, 1), [torch.rand(1, 3, 32, 32)]).max_error > 1e-4


def test_a_tile_that_the_network_cannot_take_is_refused(network: EdgeSDSR, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a multiple of 4"):
        export_onnx(network, tmp_path / "model.onnx", tile=30, opset=20)
    assert not list(tmp_path.iterdir())
