"""Real-ESRGAN's second-order degradation, drawn per sample instead of per batch.

Source: Wang et al., "Real-ESRGAN" (arXiv 2107.10833), §3 and its published training configuration.
Order: (blur, resize, noise, JPEG) twice; the second JPEG comes before or after the last resize and
sinc filter with equal odds; then 8-bit rounding.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from srmodels.degradation.kernels import random_kernel, sinc

Image = NDArray[np.float32]
_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Pass:
    """Ranges of one (blur, resize, noise, JPEG) pass. Noise sigma in 8-bit levels."""

    blur_probability: float
    blur_sigma: tuple[float, float]
    beta_generalized: tuple[float, float]
    beta_plateau: tuple[float, float]
    resize_odds: tuple[float, float, float]  # up, down, keep
    resize: tuple[float, float]
    gaussian_sigma: tuple[float, float]
    poisson_scale: tuple[float, float]
    jpeg_quality: tuple[float, float]


@dataclass(frozen=True)
class SecondOrder:
    """A whole preset: two passes and what they share."""

    first: Pass
    second: Pass
    kernel_odds: tuple[float, ...]
    sinc_probability: float
    gaussian_probability: float
    gray_noise_probability: float
    final_sinc_probability: float


REAL_ESRGAN = SecondOrder(
    first=Pass(
        blur_probability=1.0,
        blur_sigma=(0.2, 3.0),
        beta_generalized=(0.5, 4.0),
        beta_plateau=(0.5, 2.0),
        resize_odds=(0.2, 0.7, 0.1),
        resize=(0.15, 1.5),
        gaussian_sigma=(1.0, 30.0),
        poisson_scale=(0.05, 3.0),
        jpeg_quality=(30.0, 95.0),
    ),
    second=Pass(
        blur_probability=0.8,
        blur_sigma=(0.2, 1.5),
        beta_generalized=(0.5, 4.0),
        beta_plateau=(0.5, 2.0),
        resize_odds=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2),
        gaussian_sigma=(1.0, 25.0),
        poisson_scale=(0.05, 2.5),
        jpeg_quality=(30.0, 95.0),
    ),
    kernel_odds=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    sinc_probability=0.1,
    gaussian_probability=0.5,
    gray_noise_probability=0.4,
    final_sinc_probability=0.8,
)


def second_order(
    hr: NDArray[np.uint8], scale: int, preset: SecondOrder, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """`[H, W, 3]` uint8 RGB → `[H / scale, W / scale, 3]` uint8 RGB."""
    height, width = hr.shape[:2]
    lr_size = (width // scale, height // scale)
    x = hr.astype(np.float32) / 255.0
    for number, step in enumerate((preset.first, preset.second)):
        x = _blur(x, step, preset, generator)
        x = _resize(x, step, (width, height) if number == 0 else lr_size, generator)
        x = _noise(x, step, preset, generator)
        if number == 0:
            x = _jpeg(x, step.jpeg_quality, generator)
    if generator.random() < 0.5:
        x = _final_resize(x, lr_size, preset, generator)
        x = _jpeg(x, preset.second.jpeg_quality, generator)
    else:
        x = _jpeg(x, preset.second.jpeg_quality, generator)
        x = _final_resize(x, lr_size, preset, generator)
    return (x.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)


def _filter(x: Image, kernel: NDArray[np.float64]) -> Image:
    return np.asarray(cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _blur(x: Image, step: Pass, preset: SecondOrder, generator: np.random.Generator) -> Image:
    if generator.random() >= step.blur_probability:
        return x
    kernel = random_kernel(
        generator,
        sigma=step.blur_sigma,
        odds=preset.kernel_odds,
        sinc_probability=preset.sinc_probability,
        beta_generalized=step.beta_generalized,
        beta_plateau=step.beta_plateau,
    )
    return _filter(x, kernel)


def _resize(x: Image, step: Pass, base: tuple[int, int], generator: np.random.Generator) -> Image:
    """Resizes to a random factor of `base` (width, height)."""
    low, high = step.resize
    direction = generator.choice(3, p=step.resize_odds)
    if direction == 0:
        factor = generator.uniform(1.0, high)
    elif direction == 1:
        factor = generator.uniform(low, 1.0)
    else:
        factor = 1.0
    size = (max(1, round(base[0] * factor)), max(1, round(base[1] * factor)))
    return np.asarray(cv2.resize(x, size, interpolation=int(generator.choice(_INTERPOLATIONS))))


def _noise(x: Image, step: Pass, preset: SecondOrder, generator: np.random.Generator) -> Image:
    gray = generator.random() < preset.gray_noise_probability
    if generator.random() < preset.gaussian_probability:
        sigma = generator.uniform(*step.gaussian_sigma) / 255.0
        shape = (*x.shape[:2], 1 if gray else 3)
        noise = generator.standard_normal(shape, dtype=np.float32) * sigma
    else:
        noise = _poisson_noise(x, gray, generator) * generator.uniform(*step.poisson_scale)
    noisy: Image = (x + noise).clip(0.0, 1.0).astype(np.float32)
    return noisy


def _poisson_noise(x: Image, gray: bool, generator: np.random.Generator) -> Image:
    """Zero-mean shot noise, as strong as there are distinct 8-bit values (as published)."""
    signal = (x.clip(0.0, 1.0) * 255.0).round() / 255.0
    if gray:
        signal = np.asarray(cv2.cvtColor(signal, cv2.COLOR_RGB2GRAY))[..., None]
    levels = 2.0 ** math.ceil(math.log2(max(2, len(np.unique(signal)))))
    noise: Image = (generator.poisson(signal * levels) / levels - signal).astype(np.float32)
    return noise


def _jpeg(x: Image, quality: tuple[float, float], generator: np.random.Generator) -> Image:
    pixels = (x.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    flags = [cv2.IMWRITE_JPEG_QUALITY, round(generator.uniform(*quality))]
    ok, encoded = cv2.imencode(".jpg", pixels[..., ::-1], flags)
    assert ok
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    return decoded.astype(np.float32) / 255.0


def _final_resize(
    x: Image, size: tuple[int, int], preset: SecondOrder, generator: np.random.Generator
) -> Image:
    x = np.asarray(cv2.resize(x, size, interpolation=int(generator.choice(_INTERPOLATIONS))))
    if generator.random() >= preset.final_sinc_probability:
        return x
    kernel_size = int(generator.integers(3, 11)) * 2 + 1
    return _filter(x, sinc(kernel_size, generator.uniform(math.pi / 3, math.pi)))
