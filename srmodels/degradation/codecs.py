"""Compression artefacts by the real codecs, encoded and decoded in memory."""

import cv2
import numpy as np
from numpy.typing import NDArray

from srmodels.degradation.draws import Draws


def compress(
    image: NDArray[np.uint8],
    quality: list[float],
    webp_probability: float,
    draws: Draws,
) -> NDArray[np.uint8]:
    """Returns `image` after JPEG (4:2:0) or WebP (lossy) at a random integer quality.

    Args:
        image: `[H, W, 3]` uint8 **BGR**.
        quality: two ascending numbers from 1 to 100.
        webp_probability: share of WebP; the rest is JPEG.
        draws: the sample's random choices; their log receives e.g. "JPEG 61".

    Returns:
        `[H, W, 3]` uint8 BGR.
    """
    webp = draws.happens(webp_probability)
    level = round(draws.uniform(quality))
    suffix, flag = (
        (".webp", cv2.IMWRITE_WEBP_QUALITY) if webp else (".jpg", cv2.IMWRITE_JPEG_QUALITY)
    )
    done, encoded = cv2.imencode(suffix, image, [flag, level])
    assert done, f"could not encode an image of {image.shape} as {suffix}"
    draws.say(f"{'WebP' if webp else 'JPEG'} {level}")
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
