"""A published checkpoint of another architecture, read by spandrel and measured."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.errors import UserError
from pipelines.evaluation.methods import open_method
from tests.conftest import SMALL

pytest.importorskip("spandrel")


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(0)
    network = RRDBNet(num_filters=8, num_blocks=1, scale=4).eval()
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    method = open_method(
        ModelReference.parse(f"spandrel:{tmp_path / 'tiny.pth'}"), load_config([f"recipe={SMALL}"])
    )
    assert (method.scale, method.title) == (4, "ESRGAN (tiny)")
    assert method.parameters == sum(p.numel() for p in network.parameters())
    lr = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(lr / np.float32(255)).permute(2, 0, 1)[None])
    found = method(lr).astype(float)
    assert found.shape == (80, 96, 3)
    assert np.abs(found - 255 * expected[0].clamp(0, 1).permute(1, 2, 0).numpy()).max() <= 0.51


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "no.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="spandrel cannot read"):
        open_method(
            ModelReference.parse(f"spandrel:{tmp_path / 'no.pth'}"),
            load_config([f"recipe={SMALL}"]),
        )
