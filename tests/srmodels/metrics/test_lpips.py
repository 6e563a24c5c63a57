"""LPIPS with the published weights, against values of the reference implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from srmodels.metrics import LPIPS
from srmodels.upscale import to_tensor
from tests.conftest import data_directory, needs_weights


@pytest.fixture(params=["alex", "vgg"])
def lpips(request: pytest.FixtureRequest) -> LPIPS:
    needs_weights()
    return LPIPS(request.param).load().eval()


def test_it_is_the_reference_implementations(lpips: LPIPS) -> None:
    """BSD100's first image against its LR, each pixel repeated 4 x 4 times."""
    folder = data_directory() / "benchmarks" / "BSD100" / "image_SRF_4"
    hr, lr = (
        np.asarray(Image.open(folder / f"img_001_SRF_4_{kind}.png").convert("RGB"))
        for kind in ("HR", "LR")
    )
    large = lr.repeat(4, axis=0).repeat(4, axis=1)
    expected = {"alex": 0.4754, "vgg": 0.5862}[lpips.backbone]
    with torch.no_grad():
        assert lpips(to_tensor(hr), to_tensor(large)).item() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_each_image_has_its_own_distance(backbone: str) -> None:
    """The weights are random: the test does not need the published ones."""
    torch.manual_seed(0)
    lpips = LPIPS(backbone)
    for head in lpips.heads:
        torch.nn.init.uniform_(head)
    x, y = torch.rand(2, 3, 3, 64, 64)
    distances = lpips(x, y)
    assert distances.shape == (3,)
    assert torch.allclose(distances[1:2], lpips(x[1:2], y[1:2]), rtol=1e-4)
    assert torch.allclose(distances, lpips(y, x), rtol=1e-4)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alexnet_features", "lpips_alex_heads"):
        save_file({"features.0.weight": torch.rand(3)}, tmp_path / f"{name}.safetensors")
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"are not LPIPS's: features\.0\.weight is missing or has"):
        LPIPS("alex").load()


def test_equal_images_are_at_no_distance_and_others_are(lpips: LPIPS) -> None:
    x = torch.rand(2, 3, 64, 64)
    y = x.clone()
    y[1] = 1 - y[1]
    same, other = lpips(x, y).tolist()
    assert same == 0
    assert other > 0.1


def test_flat_images_have_a_gradient(lpips: LPIPS) -> None:
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    lpips(x, torch.ones(1, 3, 64, 64)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not any(p.requires_grad for p in lpips.parameters())
