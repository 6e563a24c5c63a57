"""An artifact in a process of its own."""

from pathlib import Path

import pytest
import torch

from srmodels.edge.fresh import run_fresh
from srmodels.edge.onnx import OnnxFp32
from srmodels.edge.target import ExportSettings
from tests.srmodels.edge.test_onnx import Plain


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("edge") / "model.onnx"
    OnnxFp32().export(Plain().eval(), path, ExportSettings(tile=16))
    return path


def test_a_new_process_makes_the_same_of_a_file(artifact: Path) -> None:
    x_l = torch.rand(1, 3, 16, 16)
    fresh = run_fresh("onnx_fp32", artifact, x_l, 1)
    here = OnnxFp32().load(artifact, 1).run(x_l)
    assert torch.equal(fresh.x_h, here)
    assert fresh.peak_bytes is not None
    assert fresh.peak_bytes >= here.nbytes


def test_a_file_that_does_not_run_there_is_told_in_one_line(artifact: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(artifact.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"^ValueError: .*model\.onnx is no graph") as error:
        run_fresh("onnx_fp32", damaged, torch.rand(1, 3, 16, 16))
    assert "\n" not in str(error.value)
