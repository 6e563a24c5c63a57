from pathlib import Path

import pytest
import torch

from pipelines.config.load import load_config
from srmodels.edge.onnx import OnnxFp32
from srmodels.edge.target import TARGETS, ExportSettings, check_parity, make_target
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.latency import Latency, time_by_turns
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


def test_every_target_is_found_by_its_name_and_no_other_is() -> None:
    assert "onnx_fp32" in TARGETS
    for name in TARGETS:
        assert make_target(name).file
    with pytest.raises(ValueError, match="no edge target 'onnx_int1': use one of onnx_fp32"):
        make_target("onnx_int1")
