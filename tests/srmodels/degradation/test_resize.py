from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from srmodels.degradation.resize import _bands, bicubic, resize
from tests.conftest import data_directory


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def photo() -> np.ndarray:
    generator = np.random.default_rng(0)
    return cv2.GaussianBlur(generator.integers(0, 256, (96, 144, 3), dtype=np.uint8), (0, 0), 1.0)


@pytest.mark.parametrize("name", ["Set5", "BSD100"])
def test_bicubic_is_matlabs(name: str) -> None:
    folder = data_directory() / "benchmarks" / name / "image_SRF_4"
    differences = []
    for path in sorted(folder.glob("*_HR.png")):
        hr, lr = read(path), read(path.with_name(path.name.replace("_HR", "_LR")))
        found = bicubic(hr[: lr.shape[0] * 4, : lr.shape[1] * 4], 4)
        difference = np.abs(found.astype(int) - lr)
        differences.append(difference[4:-4, 4:-4].mean())
    assert len(differences) == {"Set5": 5, "BSD100": 100}[name]
    assert max(differences) == 0


def test_bicubic_weights_are_those_of_imresize() -> None:
    # Reduction by 2: a row with one bright pixel shows the weights, which are dyadic rationals.
    row = np.zeros((2, 64, 3), np.uint8)
    row[:, 31] = 255
    found = bicubic(row, 2)[0, :, 0]
    exact = 255 * np.array([-0.00390625, -0.03515625, 0.11328125, 0.43359375])
    # Pixel 31 is 0.5 px from output 15's centre, 1.5 px from 16's, 2.5 and 3.5 from the next ones.
    assert found[15] == np.floor(exact[3] + 0.5)
    assert found[16] == np.floor(exact[2] + 0.5)
    assert found[17] == found[13] == 0


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_bicubic_keeps_brightness_and_place(photo: np.ndarray, scale: int) -> None:
    small = bicubic(photo, scale)
    assert small.shape == (96 // scale, 144 // scale, 3)
    assert small.mean() == pytest.approx(photo.mean(), abs=0.5)
    assert np.array_equal(bicubic(photo[::-1, ::-1].copy(), scale), small[::-1, ::-1])
    ramp = np.repeat(np.arange(144, dtype=np.uint8)[None, :, None], 96, 0).repeat(3, 2)
    middle = bicubic(ramp, scale)[3, 4:-4, 0].astype(float)
    expected = (np.arange(144 // scale)[4:-4] + 0.5) * scale - 0.5
    assert np.abs(middle - expected).max() <= 0.5


def test_bicubic_by_one_changes_nothing(photo: np.ndarray) -> None:
    assert np.array_equal(bicubic(photo, 1), photo)


@pytest.mark.parametrize("level", [0, 1, 127, 200, 255])
def test_flat_pictures_stay_flat(level: int) -> None:
    image = np.full((48, 48, 3), level, np.uint8)
    for kind in ("area", "linear", "cubic"):
        assert (resize(image, (31, 67), kind) == level).all()
    for scale in (2, 3, 4, 8):
        assert (bicubic(image, scale) == level).all()


@pytest.mark.parametrize("size", [(60, 41), (144, 50), (200, 130), (71, 140), (1, 1), (5, 300)])
@pytest.mark.parametrize(
    ("kind", "flag"),
    [("area", cv2.INTER_AREA), ("linear", cv2.INTER_LINEAR), ("cubic", cv2.INTER_CUBIC)],
)
def test_resize_is_opencvs_within_rounding(
    photo: np.ndarray, size: tuple[int, int], kind: str, flag: int
) -> None:
    if kind == "area":
        # OpenCV's area enlarges in another way.
        size = min(size[0], 144), min(size[1], 96)
    expected = cv2.resize(photo.astype(np.float64), size, interpolation=flag)
    found = resize(photo, size, kind)
    assert found.dtype == np.uint8
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.6


def test_area_enlarges_by_coverage() -> None:
    image = np.array([[[0] * 3, [90] * 3]], np.uint8)
    assert resize(image, (3, 1), "area")[0, :, 0].tolist() == [0, 45, 90]


def test_the_same_size_is_the_same_picture(photo: np.ndarray) -> None:
    for kind in ("area", "linear", "cubic"):
        assert np.array_equal(resize(photo, (144, 96), kind), photo)


def test_float32_products_are_exact() -> None:
    # Extreme pixels at every position, against the same weights in integers.
    for kind, source, target in [
        ("matlab", 256, 32),
        ("matlab", 255, 85),
        ("cubic", 255, 370),
        ("area", 255, 40),
        ("linear", 97, 140),
    ]:
        bands = _bands(kind, source, target, 16)
        for band in bands:
            assert np.array_equal(band.weights, np.rint(band.weights))
            assert 128 * np.abs(band.weights).sum(1).max() + 2**15 < 2**24
            assert (band.weights.sum(1) == 2**16).all()
        assert all(b.top - a.top == len(a.weights) for a, b in pairwise(bands))
        # The second pass of `resize`: 4 fractional bits, weights of 12 bits.
        low = _bands(kind, source, target, 12)
        gain = max(np.abs(band.weights).sum(1).max() for band in low) / 2**12
        assert 128 * 16 * gain * gain * 2**12 < 2**24
