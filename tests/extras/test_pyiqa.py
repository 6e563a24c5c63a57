"""Metrics through pyiqa, run for real with the weights that are at hand."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srmodels.metrics import psnr_rgb
from srmodels.metrics.suite import METRICS, pyiqa_score
from srmodels.upscale import to_tensor
from srmodels.weights import pretrained
from tests.conftest import data_directory, needs_weights

pytest.importorskip("pyiqa")
from pyiqa.utils import download_util


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Bicubic and HR of Set5's butterfly."""
    folder = data_directory() / "benchmarks" / "Set5"
    low, high = (
        Image.open(next(folder.rglob(f"img_003_SRF_4_{kind}.png"))).convert("RGB")
        for kind in ("LR", "HR")
    )
    return np.asarray(low.resize(high.size, Image.Resampling.BICUBIC)), np.asarray(high)


def test_pixels_reach_it_as_it_wants_them(pair: tuple[np.ndarray, np.ndarray]) -> None:
    score = pyiqa_score("psnr", has_reference=True)(0)
    assert abs(score(*pair) - psnr_rgb(*pair, 0)) < 1e-3


def test_dists_is_what_its_authors_package_says(
    pair: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_weights()
    authors = importlib.util.find_spec("DISTS_pytorch")
    if authors is None or authors.origin is None:
        pytest.skip("dists-pytorch, which carries the weights, is not installed")
    from torchvision import models

    plain = models.vgg16

    def vgg16(**_: object) -> torch.nn.Module:
        network = plain(weights=None)
        network.load_state_dict(pretrained("vgg16_features"), strict=False)
        return network

    monkeypatch.setattr(models, "vgg16", vgg16)
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path))
    weights = Path(authors.origin).parent / "weights.pt"
    shutil.copyfile(weights, tmp_path / "DISTS_weights-f5e65c96.pth")
    score = METRICS["dists"].create(4)
    sr, hr = pair

    from DISTS_pytorch import DISTS

    reference = DISTS().eval()
    with torch.inference_mode():
        expected = float(reference(to_tensor(hr), to_tensor(sr)))
    assert 0.05 < expected < 0.5
    assert abs(score(sr, hr) - expected) < 1e-4
    assert abs(score(hr, hr)) < 1e-5


@pytest.mark.parametrize("name", ["musiq", "clipiqa", "pi"])
def test_what_needs_the_web_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=rf"the metric '{name}' cannot be loaded .* so run it once"
    ):
        METRICS[name].create(4)
