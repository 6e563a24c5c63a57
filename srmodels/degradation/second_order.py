"""Real-ESRGAN's second-order degradation, drawn per sample instead of per batch.

Source: Wang et al., "Real-ESRGAN" (arXiv 2107.10833), §3 and its published training configuration.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from srmodels.degradation import filtering, noise, resize
from srmodels.degradation.codecs import compress
from srmodels.degradation.draws import choose, choose_size, happens, uniform
from srmodels.degradation.kernels import random_kernel, random_sinc
from srmodels.degradation.options import INTERPOLATIONS, Blur, Final, Noise, Resize, SecondOrder

Image = NDArray[np.uint8]
Size = tuple[int, int]


def second_order(
    hr: Image,
    scale: int,
    options: SecondOrder,
    generator: np.random.Generator,
    drawn: list[str] | None = None,
) -> Image:
    """(Blur, resize, noise, compression) twice; the last compression before or after the last
    resize and sinc filter with equal odds. Every step gives 8 bits: a reconstruction, as the
    published code keeps floats between them; it is what makes the result exact.

    Args:
        hr: `[H, W, 3]` uint8 RGB, H and W multiples of `scale`.
        scale: how many times smaller LR is.
        options: ranges and odds.
        generator: the source of randomness.
        drawn: receives one line per step.

    Returns:
        `[H / scale, W / scale, 3]` uint8 RGB.
    """
    height, width = hr.shape[:2]
    lr_size = (width // scale, height // scale)
    x = cv2.cvtColor(hr, cv2.COLOR_RGB2BGR)
    x = _blur(x, options.first.blur, generator, drawn)
    x = _resize(x, options.first.resize, (width, height), generator, drawn)
    x = _noise(x, options.first.noise, generator, drawn)
    x = compress(x, options.first.quality, options.webp_probability, generator, drawn)
    x = _blur(x, options.second.blur, generator, drawn)
    x = _resize(x, options.second.resize, lr_size, generator, drawn)
    x = _noise(x, options.second.noise, generator, drawn)
    if happens(generator, 0.5):
        x = _finish(x, lr_size, options.final, generator, drawn)
        x = compress(x, options.second.quality, options.webp_probability, generator, drawn)
    else:
        x = compress(x, options.second.quality, options.webp_probability, generator, drawn)
        x = _finish(x, lr_size, options.final, generator, drawn)
    return np.asarray(cv2.cvtColor(x, cv2.COLOR_BGR2RGB), np.uint8)


def _blur(
    x: Image, options: Blur, generator: np.random.Generator, drawn: list[str] | None
) -> Image:
    if not happens(generator, options.probability):
        return x
    kernel = random_kernel(options, generator, drawn)
    return filtering.apply(x, filtering.separate(kernel))


def _resize(
    x: Image, options: Resize, base: Size, generator: np.random.Generator, drawn: list[str] | None
) -> Image:
    """Resizes to a random factor of `base` (width, height)."""
    direction = ("up", "down", "keep")[choose(generator, options.odds)]
    factor = 1.0
    if direction == "up":
        factor = uniform(generator, [1.0, options.range[1]])
    elif direction == "down":
        factor = uniform(generator, [options.range[0], 1.0])
    size = max(1, round(base[0] * factor)), max(1, round(base[1] * factor))
    return _to_size(x, size, options.interpolation_odds, generator, drawn)


def _to_size(
    x: Image, size: Size, odds: list[float], generator: np.random.Generator, drawn: list[str] | None
) -> Image:
    interpolation = INTERPOLATIONS[choose(generator, odds)]
    if drawn is not None:
        drawn.append(f"resize x{size[0] / x.shape[1]:.2f} {interpolation}")
    return resize.resize(x, size, interpolation)


def _noise(
    x: Image, options: Noise, generator: np.random.Generator, drawn: list[str] | None
) -> Image:
    gray = happens(generator, options.gray_probability)
    if happens(generator, options.gaussian_probability):
        kind, strength = "gaussian", uniform(generator, options.gaussian_sigma)
        shape = x.shape[:2] if gray else x.shape
        levels = noise.gaussian(shape, strength, generator)
    else:
        kind, strength = "poisson", uniform(generator, options.poisson_scale)
        levels = noise.poisson(x, strength, gray, generator)
    if drawn is not None:
        drawn.append(f"{kind} {'gray ' if gray else ''}{strength:.1f}")
    return noise.add(x, levels)


def _finish(
    x: Image, size: Size, options: Final, generator: np.random.Generator, drawn: list[str] | None
) -> Image:
    """Resizes to LR's size and, with some probability, filters with a sinc."""
    x = _to_size(x, size, options.interpolation_odds, generator, drawn)
    if not happens(generator, options.sinc_probability):
        return x
    kernel_size = choose_size(generator, options.kernel_sizes)
    kernel = random_sinc(kernel_size, math.pi / 3, generator, drawn)
    return filtering.apply(x, filtering.separate(kernel))
