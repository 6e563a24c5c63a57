from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from srmodels.metrics import psnr_rgb, psnr_y, ssim_rgb, ssim_y, to_y
from tests.conftest import data_directory

Metric = Callable[..., float]


def noise(seed: int, size: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def two_images() -> list[np.ndarray]:
    """Waves, and the same with a pattern over them; no generator of random numbers, whose numbers
    might change."""
    row, column = np.mgrid[0:60, 0:72]
    waves = [127 + 90 * np.sin(row / (5 + p)) * np.cos(column / (7 - p)) for p in range(3)]
    first = np.stack(waves, axis=-1) + ((row * 7 + column * 13) % 11)[..., None]
    pattern = ((row * 5) ^ (column * 3)) % 17 - 8
    second = first + pattern[..., None] * np.array([1.0, 0.5, 1.5])
    return [image.round().clip(0, 255).astype(np.uint8) for image in (first, second)]


@pytest.mark.parametrize(
    ("metric", "expected", "tolerance"),
    [
        (psnr_y, 37.737807, 1e-4),
        (psnr_rgb, 33.447576, 1e-4),
        (ssim_y, 0.95603727, 1e-5),
        (ssim_rgb, 0.94403349, 1e-5),
    ],
)
def test_the_values_are_scikit_image_s(metric: Metric, expected: float, tolerance: float) -> None:
    """The expected values are those of scikit-image 0.26.0, for images without a border of 4 px.

    They come from peak_signal_noise_ratio, and from structural_similarity with gaussian_weights,
    sigma 1.5 and use_sample_covariance=False. Y is rgb2ycbcr(...)[..., 0].round().
    """
    assert metric(*two_images(), crop=4) == pytest.approx(expected, abs=tolerance)


def test_luma_of_black_white_and_primaries_is_that_of_bt601() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0]]], dtype=np.uint8)
    assert np.allclose(to_y(colours), [[16, 235, 81, 145]])


def test_psnr_follows_its_definition() -> None:
    a = np.full((32, 32, 3), 100, np.uint8)
    # Grey 100 is luma 101.88, grey 101 is 102.74: one level apart once rounded.
    assert psnr_y(a, a + 1, crop=4) == pytest.approx(20 * np.log10(255), abs=1e-9)
    assert psnr_y(a, a, crop=4) == float("inf")


def test_the_border_is_left_out() -> None:
    a = noise(0)
    b = a.copy()
    b[:4] = 255 - b[:4]
    assert psnr_y(a, b, crop=4) == float("inf")
    assert psnr_y(a, b, crop=3) < 40


def test_ssim_is_one_for_equal_images_and_near_zero_for_noise() -> None:
    assert ssim_y(noise(0), noise(0), crop=4) == pytest.approx(1.0)
    assert abs(ssim_y(noise(0), noise(1), crop=4)) < 0.1


def test_images_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot compare images of shapes"):
        psnr_y(noise(0), noise(0, 47), crop=4)
    with pytest.raises(ValueError, match="too small for a border crop of 20"):
        ssim_y(noise(0), noise(0), crop=20)


@pytest.mark.parametrize(
    ("name", "psnr", "ssim"),
    [("Set5", 28.42, 0.8104), pytest.param("BSD100", 25.96, 0.6675, marks=pytest.mark.slow)],
)
def test_bicubic_scores_what_the_literature_says(name: str, psnr: float, ssim: float) -> None:
    """The numbers every super-resolution paper prints in its bicubic row, at ×4."""
    folder = data_directory() / "benchmarks" / name / "image_SRF_4"
    scores = []
    for path in sorted(folder.glob("*_HR.png")):
        with Image.open(path) as hr, Image.open(str(path).replace("_HR", "_LR")) as lr:
            sr = lr.convert("RGB").resize(hr.size, Image.Resampling.BICUBIC)
            pair = np.asarray(sr), np.asarray(hr.convert("RGB"))
        scores.append((psnr_y(*pair, crop=4), ssim_y(*pair, crop=4)))
    assert scores
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(psnr, abs=0.02)
    assert mean[1] == pytest.approx(ssim, abs=0.0005)
