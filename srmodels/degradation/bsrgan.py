"""BSRGAN's degradation: blurs, downsampling, noise and JPEG in a random order.

Source: Zhang et al., "Designing a Practical Degradation Model for Deep Blind Image
Super-Resolution" (arXiv 2103.14006), §III. The camera-sensor noise, which needs a model of a
camera's processing, is left out. Reconstructions, where the paper gives no number or says it only
in words: the odds of the downsampling variants, of halving first and of the noise kinds; the
anisotropic "widths" read as variances; the size of the first of the two downsampling steps; 8 bits
between steps.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from srmodels.degradation import filtering, kernels, noise, resize
from srmodels.degradation.codecs import compress
from srmodels.degradation.draws import Draws
from srmodels.degradation.options import Bsrgan

Image = NDArray[np.uint8]
Size = tuple[int, int]


def bsrgan(hr: Image, scale: int, options: Bsrgan, draws: Draws) -> Image:
    """Takes one crop through the shuffled steps, to LR's size, and through a last compression.

    Downsampling is two of the steps, the first (by any factor, or by the whole scale) always
    before the second (to LR's size).

    Args:
        hr: `[H, W, 3]` uint8 RGB, H and W multiples of `scale`.
        scale: how many times smaller LR is.
        options: ranges and odds.
        draws: the sample's random choices, which receive a line per step.

    Returns:
        `[H / scale, W / scale, 3]` uint8 RGB.
    """
    size = hr.shape[1] // scale, hr.shape[0] // scale
    steps = _Steps(options, draws)
    x = np.asarray(cv2.cvtColor(hr, cv2.COLOR_RGB2BGR), np.uint8)
    if scale % 4 == 0 and draws.happens(options.pre_halve_probability):
        scale //= 2
        x = steps.to_size(x, (x.shape[1] // 2, x.shape[0] // 2))
    shuffled: list[Callable[[Image], Image]] = [
        steps.blur_isotropic,
        steps.blur_anisotropic,
        lambda image: steps.shrink(image, scale),
        lambda image: steps.to_size(image, size),
        steps.add_noise,
        steps.maybe_compress,
    ]
    order = [int(index) for index in draws.generator.permutation(len(shuffled))]
    first, second = sorted((order.index(2), order.index(3)))
    order[first], order[second] = 2, 3
    for index in order:
        x = shuffled[index](x)
    x = compress(x, options.quality, options.webp_probability, draws)
    return np.asarray(cv2.cvtColor(x, cv2.COLOR_BGR2RGB), np.uint8)


class _Steps:
    """The steps of one sample, each from a BGR image to a BGR image."""

    def __init__(self, options: Bsrgan, draws: Draws) -> None:
        self.options, self.draws = options, draws

    def blur_isotropic(self, x: Image) -> Image:
        sigma = self.draws.uniform(self.options.isotropic_sigma)
        return self._blur(x, "iso", sigma, sigma, 0.0)

    def blur_anisotropic(self, x: Image) -> Image:
        limits = self.options.anisotropic_variance
        first, second = (math.sqrt(self.draws.uniform(limits)) for _ in range(2))
        return self._blur(x, "aniso", first, second, self.draws.uniform([0.0, math.pi]))

    def _blur(self, x: Image, kind: str, first: float, second: float, angle: float) -> Image:
        size = self.draws.choose_size(self.options.kernel_sizes)
        self.draws.say(f"blur {kind} {size} px sigma {first:.1f}/{second:.1f}")
        kernel = kernels.gaussian(size, first, second, angle)
        return filtering.apply(x, filtering.separate(kernel))

    def shrink(self, x: Image, scale: int) -> Image:
        """Downsamples for the first time; where it goes below LR's size, the second one
        enlarges."""
        if self.draws.happens(self.options.nearest_probability):
            return self._nearest(x, scale)
        low, high = self.options.shrink
        factor = self.draws.uniform([low, max(low, high * scale)])
        return self.to_size(
            x, (max(1, round(x.shape[1] / factor)), max(1, round(x.shape[0] / factor)))
        )

    def _nearest(self, x: Image, scale: int) -> Image:
        """Returns every `scale`-th pixel of a blurred image.

        The blur is shifted to the middle between pixels, so that even scales do not move the
        picture by half a pixel (§III-B).
        """
        sigma = self.draws.uniform([0.1, 0.6 * scale])
        shift = (scale - 1) / 2 - scale // 2
        self.draws.say(f"blur shifted sigma {sigma:.1f}, every {scale}. pixel")
        kernel = kernels.gaussian(25, sigma, sigma, 0.0, shift=shift)
        x = filtering.apply(x, filtering.separate(kernel))
        middle = min(scale // 2, x.shape[0] - 1, x.shape[1] - 1)
        return np.ascontiguousarray(x[middle::scale, middle::scale])

    def to_size(self, x: Image, size: Size) -> Image:
        return resize.random_resize(x, size, self.options.interpolation_odds, self.draws)

    def add_noise(self, x: Image) -> Image:
        sigma = self.draws.uniform(self.options.gaussian_sigma)
        kind = ("gray", "colour", "correlated")[self.draws.choose(self.options.noise_odds)]
        self.draws.say(f"gaussian {kind} {sigma:.1f}")
        if kind == "correlated":
            return noise.add(x, noise.correlated(x.shape, sigma, self.draws.generator))
        shape = x.shape if kind == "colour" else x.shape[:2]
        return noise.add(x, noise.gaussian(shape, sigma, self.draws.generator))

    def maybe_compress(self, x: Image) -> Image:
        if not self.draws.happens(self.options.compression_probability):
            return x
        options = self.options
        return compress(x, options.quality, options.webp_probability, self.draws)
