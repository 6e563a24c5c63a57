"""Resizing with integer weights, so that every machine gives the same bytes.

Rows, then columns, each as products with a banded weight matrix. Images are centred on 128 and
weights have 16 bits (12 after 4 fractional bits were kept in between), so that all partial sums are
integers below 2**24: float32 products are exact in any order and with any instruction set.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from srmodels.degradation.draws import Draws
from srmodels.degradation.filtering import to_uint8
from srmodels.degradation.options import INTERPOLATIONS

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

_BLOCK = 32
#: OpenBLAS spreads larger products over threads, which only costs time in a loader.
_PRODUCT = 2**18


class _Band(NamedTuple):
    """Output rows `top` on are `weights` times input rows `low` to `high`."""

    top: int
    low: int
    high: int
    weights: NDArray[np.float32]


def bicubic(image: Image, scale: int) -> Image:
    """Returns MATLAB's `imresize(image, 1 / scale)` of a uint8 image.

    Keys' cubic (a = −0.5) stretched by `scale` against aliasing, mirrored borders, and rounding to
    8 bits after each of the two directions, as MATLAB does for integer images.

    Args:
        image: `[H, W, 3]` uint8, H and W multiples of `scale`.
        scale: how many times smaller the result is.
    """
    height, width = image.shape[0] // scale, image.shape[1] // scale
    return _two_passes(image, (width, height), "matlab", fraction_bits=0)


def bicubic_floats(image: Floats, scale: int) -> Floats:
    """Returns the same for floating-point images `[H, W]` of any range, which are not rounded."""
    for _ in range(2):
        index, weight = _taps("matlab", image.shape[0], image.shape[0] // scale)
        image = np.einsum("otw,ot->ow", image[index], weight).T
    return image


def resize(image: Image, size: tuple[int, int], interpolation: str) -> Image:
    """Returns `image` `[H, W, 3]` uint8 at `size` (width, height).

    `interpolation`: `area` averages the covered pixels by coverage; `linear` and `cubic`
    (a = −0.75) sample without antialiasing, as PyTorch's and OpenCV's do. Borders are repeated.
    """
    if size == (image.shape[1], image.shape[0]):
        return image
    return _two_passes(image, size, interpolation, fraction_bits=4)


def random_resize(image: Image, size: tuple[int, int], odds: list[float], draws: Draws) -> Image:
    """Returns `image` `[H, W, 3]` uint8 at `size` (width, height), by one of `INTERPOLATIONS`,
    drawn in proportion to `odds`."""
    interpolation = INTERPOLATIONS[draws.choose(odds)]
    draws.say(f"resize x{size[0] / image.shape[1]:.2f} {interpolation}")
    return resize(image, size, interpolation)


def _two_passes(image: Image, size: tuple[int, int], kind: str, fraction_bits: int) -> Image:
    height, width = image.shape[:2]
    centred = np.subtract(image, np.float32(128), dtype=np.float32)
    rows = _multiply(_bands(kind, height, size[1], 16), centred.reshape(height, -1))
    rows *= np.float32(2.0 ** (fraction_bits - 16))
    rows += np.float32(0.5)
    np.floor(rows, out=rows)
    if fraction_bits == 0:
        np.clip(rows, -128.0, 127.0, out=rows)
    turned = cv2.transpose(rows.reshape(size[1], width, 3)).reshape(width, -1)
    columns = _multiply(_bands(kind, width, size[0], 16 - fraction_bits), turned)
    columns *= np.float32(2.0**-16)
    return np.asarray(cv2.transpose(to_uint8(columns).reshape(size[0], size[1], 3)), np.uint8)


def _multiply(bands: tuple[_Band, ...], source: NDArray[np.float32]) -> NDArray[np.float32]:
    height = bands[-1].top + len(bands[-1].weights)
    columns = source.shape[1]
    result = np.empty((height, columns), np.float32)
    for top, low, high, weights in bands:
        step = max(1, _PRODUCT // weights.size)
        out = result[top : top + len(weights)]
        for left in range(0, columns, step):
            part = slice(left, left + step)
            np.matmul(weights, source[low:high, part], out=out[:, part])
    return result


@lru_cache(maxsize=32)
def _bands(kind: str, source: int, target: int, bits: int) -> tuple[_Band, ...]:
    index, weight = _taps(kind, source, target)
    taps = np.rint(weight * 2.0**bits)
    rows = np.arange(target)
    # Brightness is kept exactly: the largest tap takes what rounding left over.
    taps[rows, np.argmax(taps, axis=1)] += 2.0**bits - taps.sum(axis=1)
    bands = []
    for top in range(0, target, _BLOCK):
        chosen = slice(top, min(top + _BLOCK, target))
        low, high = int(index[chosen].min()), int(index[chosen].max()) + 1
        dense = np.zeros((chosen.stop - top, high - low), np.float32)
        np.add.at(dense, (rows[chosen, None] - top, index[chosen] - low), taps[chosen])
        bands.append(_Band(top, low, high, dense))
    return tuple(bands)


def _taps(kind: str, source: int, target: int) -> tuple[NDArray[np.int64], Floats]:
    """Returns input indices and weights, `[target, taps]`; rows of weights sum to about 1."""
    ratio = source / target
    number = np.arange(target, dtype=np.float64)[:, None]
    if kind == "area":
        start, end = number * ratio, (number + 1) * ratio
        index = np.floor(start) + np.arange(np.ceil(ratio) + 1.0)
        weight = np.minimum(index + 1, end) - np.maximum(index, start)
        return _clamped(index, source), np.maximum(weight, 0.0) / ratio
    centre = (number + 0.5) * ratio - 0.5
    if kind == "linear":
        index = np.floor(centre) + np.arange(2.0)
        return _clamped(index, source), 1.0 - np.abs(index - centre)
    if kind == "cubic":
        index = np.floor(centre) + np.arange(-1.0, 3.0)
        return _clamped(index, source), _keys(index - centre, -0.75)
    assert kind == "matlab", f"there is no interpolation '{kind}'"
    stretch = max(ratio, 1.0)
    index = np.floor(centre - 2 * stretch) + np.arange(int(np.ceil(4 * stretch)) + 2)
    weight = _keys((index - centre) / stretch, -0.5)
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = index.astype(np.int64) % (2 * source)
    return np.minimum(mirrored, 2 * source - 1 - mirrored), weight


def _clamped(index: Floats, source: int) -> NDArray[np.int64]:
    return np.clip(index, 0, source - 1).astype(np.int64)


def _keys(distance: Floats, a: float) -> Floats:
    """Keys' cubic convolution kernel with slope `a` (Keys 1981)."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
