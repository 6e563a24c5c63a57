"""Every metric by its name."""

import sys

import numpy as np
import pytest
from PIL import Image

from pipelines.data.sources import SAMPLE
from srmodels.metrics import NoScoreError
from srmodels.metrics.suite import METRICS
from tests.conftest import needs_weights

PLAIN = [name for name, metric in METRICS.items() if not metric.protocol.startswith("pyiqa")]
BLURRED = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "lpips_alex", "lpips_vgg")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    path = sorted(SAMPLE.glob("*.jpg"))[0]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))[:288, :384]


def blurred(photo: np.ndarray, by: int) -> np.ndarray:
    size = photo.shape[1], photo.shape[0]
    small = Image.fromarray(photo).resize((size[0] // by, size[1] // by), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", PLAIN)
def test_a_little_blur_is_better_than_much(name: str, photo: np.ndarray) -> None:
    metric = METRICS[name]
    if metric.pretrained:
        needs_weights()
    score = metric.create(4)
    # Blur by two is none of what NIQE knows.
    little = 2 if metric.has_reference else 1
    slightly, heavily = (score(blurred(photo, by), photo) for by in (little, 6))
    assert (slightly > heavily) == metric.higher_is_better
    assert abs(slightly - heavily) > metric.margin


def test_the_label_tells_the_border_where_there_is_one() -> None:
    assert METRICS["psnr_y"].label(4) == "psnr_y_crop4"
    assert METRICS["lpips_alex"].label(4) == "lpips_alex"


@pytest.mark.parametrize("name", ["psnr_y", "ssim_rgb"])
def test_the_border_is_left_out(name: str, photo: np.ndarray) -> None:
    framed = photo.copy()
    framed[:3], framed[:, -3:] = 0, 255
    perfect = METRICS[name].create(3)(framed, photo)
    assert perfect == METRICS[name].create(3)(photo, photo)
    assert METRICS[name].create(2)(framed, photo) < perfect


def test_what_pyiqa_measures_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    for name in ("dists", "musiq", "clipiqa", "pi"):
        with pytest.raises(
            ValueError,
            match=rf"'{name}' needs pyiqa, which cannot be imported .*pip install -e '\.\[metri",
        ):
            METRICS[name].create(4)


def test_what_is_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delenv("SRMILL_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert METRICS["psnr_y"].is_at_hand()
    assert not METRICS["niqe"].is_at_hand()
    assert not METRICS["lpips_alex"].is_at_hand()


@pytest.mark.parametrize("name", PLAIN)
def test_an_image_of_a_few_pixels_has_a_score_or_none(name: str) -> None:
    metric = METRICS[name]
    if metric.pretrained:
        needs_weights()
    score, refused = metric.create(0), 0
    for side in (1, 8, 15, 16, 30, 31, 60):
        image = np.random.default_rng(0).integers(0, 256, (side, side + 9, 3), np.uint8)
        try:
            assert np.isfinite(score(image, 255 - image))
        except NoScoreError:
            refused = side
    assert refused >= 8
