"""The degradation presets by name, and the one function that applies them.

Equal generator states give equal bytes: images are uint8 between steps, and each step is integer
arithmetic (in float32 where that is exact and faster) or a library path found to be exact. Tests
prove it on x86-64 with the instruction sets of OpenCV, NumPy and OpenBLAS switched off, without
IPP, and with two threads. Not proven: other architectures; other versions of the JPEG and WebP
codecs, and their instruction sets, which OpenCV cannot switch off (libjpeg-turbo's are exact by
design); exp, pow, sin, cos and Bessel functions, whose last bit may differ between machines.
Kernels are rounded right after them, so that this could change one kernel in millions.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from srmodels.degradation.bsrgan import bsrgan
from srmodels.degradation.draws import Draws
from srmodels.degradation.options import Bicubic, Blur, Bsrgan, Noise, Pass, Resize, SecondOrder
from srmodels.degradation.resize import bicubic
from srmodels.degradation.second_order import second_order

Options = Bicubic | Bsrgan | SecondOrder


def _realesrgan() -> SecondOrder:
    return SecondOrder(
        first=Pass(),
        second=Pass(
            blur=Blur(probability=0.8, sigma=[0.2, 1.5]),
            resize=Resize(odds=[0.3, 0.4, 0.3], range=[0.3, 1.2]),
            noise=Noise(gaussian_sigma=[1.0, 25.0], poisson_scale=[0.05, 2.5]),
        ),
    )


def _realsr_diffusion() -> SecondOrder:
    """Returns Real-ESRGAN's chain with the weaker ranges of published diffusion SR trainings."""
    return SecondOrder(
        first=Pass(
            resize=Resize(range=[0.3, 1.5]),
            noise=Noise(gaussian_sigma=[1.0, 15.0], poisson_scale=[0.05, 2.0]),
            quality=[60.0, 95.0],
        ),
        second=Pass(
            blur=Blur(probability=0.5, sigma=[0.2, 1.5]),
            resize=Resize(odds=[0.3, 0.4, 0.3], range=[0.6, 1.2]),
            noise=Noise(gaussian_sigma=[1.0, 12.0], poisson_scale=[0.05, 1.0]),
            quality=[60.0, 100.0],
        ),
    )


#: Factories of the presets' options, by the names that a recipe's `degradation.preset` can take.
PRESETS: dict[str, Callable[[], Options]] = {
    "bicubic": Bicubic,
    "bsrgan": Bsrgan,
    "realesrgan": _realesrgan,
    "realsr_diffusion": _realsr_diffusion,
}


def degrade(
    hr: NDArray[np.uint8],
    scale: int,
    options: Options,
    draws: Draws,
) -> NDArray[np.uint8]:
    """Returns the LR version of an HR crop.

    Equal generator states give equal bytes; the module's first lines say how far that is proven.
    OpenCV's thread count is left as it is; one thread per caller is fastest for crops.

    Args:
        hr: `[H, W, 3]` uint8 RGB; H and W multiples of `scale`.
        scale: how many times smaller LR is.
        options: what one of `PRESETS` made; its type selects the degradation.
        draws: the sample's random choices, which receive a line per step; `Bicubic` draws nothing.

    Returns:
        `[H / scale, W / scale, 3]` uint8 RGB.

    Raises:
        ValueError: a size that `scale` does not divide.
    """
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"an HR crop of {width}x{height} px cannot be reduced by {scale}.")
    if isinstance(options, Bicubic):
        draws.say(f"bicubic x{1 / scale:.2f}")
        return bicubic(hr, scale)
    if isinstance(options, Bsrgan):
        return bsrgan(hr, scale, options, draws)
    return second_order(hr, scale, options, draws)
