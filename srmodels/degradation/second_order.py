"""Real-ESRGAN's second-order degradation, drawn per sample instead of per batch.

Source: Wang et al., "Real-ESRGAN" (arXiv 2107.10833), §3 and its published training configuration.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from srmodels.degradation import filtering, noise, resize
from srmodels.degradation.codecs import compress
from srmodels.degradation.draws import Draws
from srmodels.degradation.kernels import random_kernel, random_sinc
from srmodels.degradation.options import Blur, Final, Noise, Resize, SecondOrder

Image = NDArray[np.uint8]
Size = tuple[int, int]


def second_order(hr: Image, scale: int, options: SecondOrder, draws: Draws) -> Image:
    """Applies blur, resize, noise and compression twice; the last compression before or after the
    last resize and sinc filter with equal odds. Every step gives 8 bits: a reconstruction, as the
    published code keeps floats between them; it is what makes the result exact.

    Args:
        hr: `[H, W, 3]` uint8 RGB, H and W multiples of `scale`.
        scale: how many times smaller LR is.
        options: ranges and odds.
        draws: the sample's random choices, which receive a line per step.

    Returns:
        `[H / scale, W / scale, 3]` uint8 RGB.
    """
    height, width = hr.shape[:2]
    lr_size = (width // scale, height // scale)
    x = cv2.cvtColor(hr, cv2.COLOR_RGB2BGR)
    x = _blur(x, options.first.blur, draws)
    x = _resize(x, options.first.resize, (width, height), draws)
    x = _noise(x, options.first.noise, draws)
    x = compress(x, options.first.quality, options.webp_probability, draws)
    x = _blur(x, options.second.blur, draws)
    x = _resize(x, options.second.resize, lr_size, draws)
    x = _noise(x, options.second.noise, draws)
    if draws.happens(0.5):
        x = _finish(x, lr_size, options.final, draws)
        x = compress(x, options.second.quality, options.webp_probability, draws)
    else:
        x = compress(x, options.second.quality, options.webp_probability, draws)
        x = _finish(x, lr_size, options.final, draws)
    return np.asarray(cv2.cvtColor(x, cv2.COLOR_BGR2RGB), np.uint8)


def _blur(x: Image, options: Blur, draws: Draws) -> Image:
    if not draws.happens(options.probability):
        return x
    kernel = random_kernel(options, draws)
    return filtering.apply(x, filtering.separate(kernel))


def _resize(x: Image, options: Resize, base: Size, draws: Draws) -> Image:
    """Resizes to a random factor of `base` (width, height)."""
    direction = ("up", "down", "keep")[draws.choose(options.odds)]
    factor = 1.0
    if direction == "up":
        factor = draws.uniform([1.0, options.range[1]])
    elif direction == "down":
        factor = draws.uniform([options.range[0], 1.0])
    size = max(1, round(base[0] * factor)), max(1, round(base[1] * factor))
    return resize.random_resize(x, size, options.interpolation_odds, draws)


def _noise(x: Image, options: Noise, draws: Draws) -> Image:
    gray = draws.happens(options.gray_probability)
    if draws.happens(options.gaussian_probability):
        kind, strength = "gaussian", draws.uniform(options.gaussian_sigma)
        shape = x.shape[:2] if gray else x.shape
        levels = noise.gaussian(shape, strength, draws.generator)
    else:
        kind, strength = "poisson", draws.uniform(options.poisson_scale)
        levels = noise.poisson(x, strength, gray, draws.generator)
    draws.say(f"{kind} {'gray ' if gray else ''}{strength:.1f}")
    return noise.add(x, levels)


def _finish(x: Image, size: Size, options: Final, draws: Draws) -> Image:
    """Resizes to LR's size and, with some probability, filters with a sinc."""
    x = resize.random_resize(x, size, options.interpolation_odds, draws)
    if not draws.happens(options.sinc_probability):
        return x
    kernel_size = draws.choose_size(options.kernel_sizes)
    kernel = random_sinc(kernel_size, math.pi / 3, draws)
    return filtering.apply(x, filtering.separate(kernel))
