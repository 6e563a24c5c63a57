import math

import numpy as np
import pytest

from srmodels.degradation.draws import Draws
from srmodels.degradation.filtering import TOLERANCE, Separable, apply, separate
from srmodels.degradation.kernels import gaussian, plateau, random_kernel, random_sinc, sinc
from srmodels.degradation.options import Blur


def padded(kernel: np.ndarray, size: int) -> np.ndarray:
    return np.pad(kernel, (size - len(kernel)) // 2)


def sums(found: Separable, image: np.ndarray) -> np.ndarray:
    """Σ taps · (pixel − 128) with mirrored borders, in integers."""
    taps = sum(np.outer(c.astype(np.int64), r.astype(np.int64)) for c, r in found.terms)
    pad = len(taps) // 2
    source = np.pad(image.astype(np.int64) - 128, ((pad, pad), (pad, pad), (0, 0)), "reflect")
    height, width = image.shape[:2]
    total = np.zeros(image.shape, np.int64)
    for y in range(len(taps)):
        for x in range(len(taps)):
            total += taps[y, x] * source[y : y + height, x : x + width]
    return total


@pytest.mark.parametrize(
    "kernel",
    [
        gaussian(21, 2.0, 2.0, 0.0),
        gaussian(21, 3.0, 0.3, 0.6),
        plateau(21, 2.0, 1.0, 0.4, 2.0),
        sinc(21, 2.5),
        gaussian(25, 1.2, 1.2, 0.0, shift=-0.5),
        gaussian(7, 0.1, 0.1, 0.0),
    ],
)
def test_filtering_is_the_integer_convolution_to_the_last_bit(kernel: np.ndarray) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 53, 3), dtype=np.uint8)
    found = separate(kernel)
    total = sums(found, image)
    assert np.abs(total).max() < 2**24
    # One float32 product, then the halves up: what the module promises, in other words.
    value = total.astype(np.float32) * np.float32(1.0 / found.total)
    expected = np.clip(np.floor(value + np.float32(128.5)), 0, 255)
    assert np.array_equal(apply(image, found), expected)


def test_terms_cannot_leave_the_range_in_which_float32_is_exact() -> None:
    draws = Draws(np.random.default_rng(1))
    for _ in range(200):
        found = separate(random_kernel(Blur(), draws))
        magnitude = sum(float(np.abs(c).sum() * np.abs(r).sum()) for c, r in found.terms)
        assert 128 * magnitude <= 2**24
        assert all(np.array_equal(part, np.rint(part)) for term in found.terms for part in term)


def test_the_kernel_that_is_applied_is_the_one_that_was_asked_for() -> None:
    draws = Draws(np.random.default_rng(2))
    kernels = [random_kernel(Blur(), draws) for _ in range(200)]
    kernels += [random_sinc(21, math.pi / 3, draws) for _ in range(50)]
    shares = []
    for kernel in kernels:
        found = padded(separate(kernel).dense(), len(kernel))
        assert found.sum() == pytest.approx(1.0)
        shares.append(np.abs(found - kernel).sum() / np.abs(kernel).sum())
        # No single tap stands out.
        assert np.abs(found - kernel).max() < 0.06 * kernel.max()
    assert np.mean(shares) < TOLERANCE
    assert max(shares) < 4 * TOLERANCE


def test_flat_pictures_stay_flat() -> None:
    found = separate(gaussian(15, 2.0, 0.7, 1.0))
    for level in (0, 1, 77, 128, 254, 255):
        image = np.full((20, 30, 3), level, np.uint8)
        assert np.array_equal(apply(image, found), image)


def test_pictures_smaller_than_the_kernel_are_filtered() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    assert apply(image, separate(gaussian(21, 3.0, 3.0, 0.0))).shape == image.shape
    assert apply(image[:1, :1], separate(sinc(21, 1.5))).shape == (1, 1, 3)
