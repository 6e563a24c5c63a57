"""Measures one photo: contrast, correlation of neighbouring pixels, and a perceptual hash."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.storage.forms import NonNegativeInt, Sha256

Gray = NDArray[np.uint8]
#: Octaves in which the correlation is measured: noise may have been enlarged.
OCTAVES = 3
#: The smallest side on which it is measured, pixels. Fewer are too few for a figure.
_SMALLEST = 16
#: The perceptual hash has `HASH_SIDE`² bits, of a photo that is reduced to `_REDUCED`² pixels.
HASH_SIDE = 16
_REDUCED = 64


@dataclass(frozen=True)
class Quality:
    """The figures by which a photo is judged.

    Attributes:
        contrast: the standard deviation of luma, 8-bit levels.
        correlation: the smallest correlation of neighbouring pixels in three octaves, in [-1, 1].
        hash: the perceptual hash, 256 bits as hexadecimal digits.
        compared: the identity of the benchmark that the photo was compared with.
        shows: the benchmark's image that it shows; None if it shows none.
        num_matches: the number of points at which it shows that image.
    """

    contrast: float
    correlation: float
    hash: Sha256
    compared: Sha256 | None = None
    shows: str | None = None
    num_matches: NonNegativeInt = 0


def luma(image: NDArray[np.uint8]) -> Gray:
    """Returns the luma `[H, W]` uint8 of `[H, W, 3]` uint8 RGB."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def contrast(gray: Gray) -> float:
    """Returns the standard deviation of luma, 8-bit levels."""
    return float(cv2.meanStdDev(gray)[1][0, 0])


def correlation(gray: Gray) -> float:
    """Returns the correlation of neighbouring pixels, the smallest of three octaves, in [-1, 1].

    The neighbours stand beside and below each other. The octaves are the photo, its half and its
    quarter. The statistics of scenes look alike at each scale, and neighbours are alike in all of
    them (Field, "Relations between the statistics of natural images and the response properties of
    cortical cells", JOSA A 1987; Ruderman and Bialek, "Statistics of natural images: scaling in
    the woods", Phys. Rev. Lett. 1994). Neighbours in white noise are not; if it was enlarged or
    compressed, they are not in a coarser octave. An estimate of the noise's variance, as that of
    Immerkær 1996, would not do: it takes the texture of grass for noise.

    A photo without any contrast has the correlation 1.
    """
    found, octave = 1.0, gray.astype(np.float32)
    for _ in range(OCTAVES):
        if min(octave.shape) < _SMALLEST:
            break
        found = min(found, _neighbours(octave))
        height, width = octave.shape
        octave = cv2.resize(octave, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return found


def _neighbours(gray: NDArray[np.float32]) -> float:
    centred = gray - gray.mean(dtype=np.float64).astype(np.float32)
    variance = float(np.mean(centred * centred, dtype=np.float64))
    if variance == 0:
        return 1.0
    beside = np.mean(centred[:, 1:] * centred[:, :-1], dtype=np.float64)
    below = np.mean(centred[1:] * centred[:-1], dtype=np.float64)
    return float(beside + below) / 2 / variance


def perceptual_hash(gray: Gray) -> str:
    """Returns 256 bits that stay almost the same when a photo is resized or compressed again.

    The bits say which of the 16x16 lowest coefficients of a DCT are above their median (pHash:
    Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, with more
    bits, so that no two photos of a large set are alike by chance).

    Returns:
        64 hexadecimal digits.
    """
    reduced = cv2.resize(
        gray.astype(np.float32), (_REDUCED, _REDUCED), interpolation=cv2.INTER_AREA
    )
    lowest = cv2.dct(reduced)[:HASH_SIDE, :HASH_SIDE].ravel()
    # The first coefficient is the mean, which says nothing of what a photo shows.
    bits = lowest > np.median(lowest[1:])
    return np.packbits(bits).tobytes().hex()


def distances(one: str, others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the number of bits in which a hash differs from others, `[n]`.

    Args:
        others: their bytes, `[n, 32]`.
    """
    mine = np.frombuffer(bytes.fromhex(one), np.uint8)
    return np.asarray(np.bitwise_count(others ^ mine).sum(axis=1, dtype=np.int64))
