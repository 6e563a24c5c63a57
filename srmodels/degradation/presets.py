"""The degradation presets by name, and the one function that applies them."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srmodels.degradation.realesrgan import REAL_ESRGAN, second_order

#: Names that a recipe's `degradation.preset` can take.
PRESETS = ("bicubic", "realesrgan")


def degrade(
    hr: NDArray[np.uint8], scale: int, preset: str, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """The LR version of an HR crop.

    Args:
        hr: `[H, W, 3]` uint8 RGB; H and W multiples of `scale`.
        scale: how many times smaller LR is.
        preset: one of `PRESETS`. `bicubic` is the antialiased bicubic of the literature (Pillow's,
            within 0.01 dB of MATLAB's on Set5); `realesrgan` is Real-ESRGAN's second-order chain.
        generator: the only source of randomness; `bicubic` draws nothing.

    Returns:
        `[H / scale, W / scale, 3]` uint8 RGB.

    Raises:
        ValueError: unknown preset, or a size that `scale` does not divide.
    """
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"an HR crop of {width}x{height} px cannot be reduced by {scale}.")
    if preset == "bicubic":
        size = (width // scale, height // scale)
        return np.asarray(Image.fromarray(hr).resize(size, Image.Resampling.BICUBIC))
    if preset == "realesrgan":
        # Seeded per sample below, never by OpenCV's own global state.
        cv2.setNumThreads(0)
        return second_order(hr, scale, REAL_ESRGAN, generator)
    raise ValueError(f"there is no degradation '{preset}': use one of {', '.join(PRESETS)}.")
