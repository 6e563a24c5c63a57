"""Noise as integers looked up by uniform random bits: exact, and far cheaper than sampling.

A table holds the distribution's quantiles at evenly spaced probabilities (65536 for Gaussian, 4096
for Poisson), so tails end at 4.3 and 3.7 standard deviations.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from srmodels.degradation.draws import words

Image = NDArray[np.uint8]
#: `[H, W]` for all channels alike, or `[H, W, 3]`; in 8-bit levels.
Levels = NDArray[np.int16]

_POISSON_BITS = 12


def add(image: Image, noise: Levels) -> Image:
    """Returns `image` `[H, W, 3]` uint8 plus noise, clipped."""
    if noise.ndim == 2:
        noise = cv2.merge([noise, noise, noise])
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


def gaussian(shape: tuple[int, ...], sigma: float, generator: np.random.Generator) -> Levels:
    """Returns independent Gaussian noise of `shape`; `sigma` in levels, at most 255."""
    table = np.rint(_normal_quantiles() * sigma).astype(np.int16)
    return _look_up(table, words(generator, math.prod(shape))).reshape(shape)


def correlated(shape: tuple[int, ...], sigma: float, generator: np.random.Generator) -> Levels:
    """Returns Gaussian noise `[H, W, 3]` whose channels share a random covariance.

    Covariance sigma²·R·diag(d)·Rᵀ with a uniformly random rotation R and d uniform in 0–1. The
    paper (arXiv 2103.14006, §III) says only "general": this choice is a reconstruction.
    """
    rotation = _random_rotation(generator)
    spread = np.sqrt(generator.random(3))
    mixing = np.rint(rotation * spread * (sigma * 256)) / 65536
    unit = _look_up(np.rint(_normal_quantiles() * 256), words(generator, math.prod(shape)))
    mixed = np.zeros(shape)
    parts = unit.reshape(3, *shape[:2])
    for channel in range(3):
        for part in range(3):
            mixed[..., channel] += parts[part] * mixing[channel, part]
    return np.rint(mixed).astype(np.int16)


def poisson(image: Image, scale: float, gray: bool, generator: np.random.Generator) -> Levels:
    """Returns the shot noise of a uint8 BGR image `[H, W, 3]`, times `scale`; its mean is 0 for
    every value.

    As published for Real-ESRGAN, a pixel of value v is worth v / 255 · n photons, n being the
    number of distinct values in the image, rounded up to a power of 2. `gray` takes the noise of
    the luminance for all channels.
    """
    signal = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8) if gray else image
    distinct = int(np.count_nonzero(cv2.calcHist([signal.reshape(-1)], [0], None, [256], [0, 256])))
    photons = 2 ** math.ceil(math.log2(max(2, distinct)))
    bits = words(generator, signal.size).reshape(signal.shape) >> (16 - _POISSON_BITS)
    index = (signal.astype(np.uint32) << _POISSON_BITS) | bits
    counts = _look_up(_poisson_quantiles(photons), index)

    # Noise is scale·(counts·step − value); counts are stored less their floor, by value. Sums of
    # multiples of 1/1024 up to 2**14 are exact.
    step, value = 255.0 / photons, np.arange(256)
    base = np.rint(1024 * scale * (np.floor(value / step) * step - value)) / 1024
    gain = np.rint(1024 * scale * (np.arange(256) - 128) * step) / 1024
    return np.asarray(
        cv2.add(
            cv2.LUT(signal, base.astype(np.float32)),
            cv2.LUT(counts, gain.astype(np.float32)),
            dtype=cv2.CV_16S,
        ),
        np.int16,
    )


def _look_up(table: NDArray, index: NDArray) -> NDArray:  # type: ignore[type-arg]
    # Every index is within the table; "wrap" spares NumPy the check.
    return np.take(table, index, mode="wrap")


@lru_cache(maxsize=1)
def _normal_quantiles() -> NDArray[np.float64]:
    from scipy.special import ndtri

    # Rounded, so that the last bits of ndtri do not matter.
    result: NDArray[np.float64] = np.rint(ndtri((np.arange(2**16) + 0.5) / 2**16) * 4096) / 4096
    return result


@lru_cache(maxsize=8)
def _poisson_quantiles(photons: int) -> NDArray[np.uint8]:
    """Returns counts less the floor of their mean, plus 128: `[256 · 4096]` by value and
    probability."""
    from scipy.special import pdtr

    mean = np.arange(256) / 255.0 * photons
    count = np.arange(photons + 128, dtype=np.float64)
    probability = (np.arange(2**_POISSON_BITS) + 0.5) / 2**_POISSON_BITS
    table = np.empty((256, 2**_POISSON_BITS), np.uint8)
    for value in range(256):
        found = np.searchsorted(pdtr(count, mean[value]), probability)
        table[value] = found - np.floor(mean[value]) + 128
    return table.reshape(-1)


def _random_rotation(generator: np.random.Generator) -> NDArray[np.float64]:
    """Returns a uniformly random 3×3 rotation, from a quaternion of four normal numbers."""
    w, x, y, z = (float(value) for value in generator.standard_normal(4))
    s = 2.0 / (w * w + x * x + y * y + z * z)
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    )
