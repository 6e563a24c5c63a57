"""Blur kernels: (an)isotropic, generalised and plateau-shaped Gaussians, and the sinc filter.

Source: Wang et al., "Real-ESRGAN" (arXiv 2107.10833), §3; the generalised and plateau shapes are
from Liu et al., "Estimating Generalized Gaussian Blur Kernels".
"""

import math

import numpy as np
from numpy.typing import NDArray

from srmodels.degradation.draws import Draws
from srmodels.degradation.options import KERNEL_KINDS, Blur

Kernel = NDArray[np.float64]


def _squared_distance(
    size: int, sigma_x: float, sigma_y: float, angle: float, shift: float = 0.0
) -> Kernel:
    """Returns the Mahalanobis distance² of every kernel cell from the centre, `[size, size]`."""
    axis = np.arange(size) - (size // 2 + shift)
    x, y = axis[None, :], axis[:, None]
    cosine, sine = math.cos(angle), math.sin(angle)
    u = (cosine * x + sine * y) / sigma_x
    v = (cosine * y - sine * x) / sigma_y
    distance: Kernel = u * u + v * v
    return distance


def gaussian(
    size: int,
    sigma_x: float,
    sigma_y: float,
    angle: float,
    beta: float = 1.0,
    shift: float = 0.0,
) -> Kernel:
    """Returns a (generalised) Gaussian `[size, size]`, summing to 1.

    `beta` 1 is the ordinary Gaussian; `shift` px moves its centre right and down.
    """
    distance = _squared_distance(size, sigma_x, sigma_y, angle, shift)
    return _normalised(np.exp(-0.5 * (distance if beta == 1.0 else distance**beta)))


def plateau(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> Kernel:
    """Returns a plateau-shaped kernel `[size, size]`, summing to 1."""
    return _normalised(1.0 / (1.0 + _squared_distance(size, sigma_x, sigma_y, angle) ** beta))


def sinc(size: int, cutoff: float) -> Kernel:
    """Returns a circular low-pass `[size, size]`, summing to 1: makes ringing. `cutoff` in
    radians."""
    from scipy.special import j1

    axis = np.arange(size) - size // 2
    radius = np.sqrt((axis * axis)[None, :] + (axis * axis)[:, None])
    radius[size // 2, size // 2] = 1.0
    kernel: Kernel = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return _normalised(kernel)


def _normalised(kernel: Kernel) -> Kernel:
    result: Kernel = kernel / kernel.sum()
    return result


def random_kernel(options: Blur, draws: Draws) -> Kernel:
    """Returns one kernel `[size, size]` drawn as Real-ESRGAN draws it, summing to 1."""
    size = draws.choose_size(options.kernel_sizes)
    if draws.happens(options.sinc_probability):
        # Small kernels cannot hold the rings of a low cutoff.
        low = math.pi / 3 if size < 13 else math.pi / 5
        return random_sinc(size, low, draws)
    kind = KERNEL_KINDS[draws.choose(options.kind_odds)]
    sigma_x = draws.uniform(options.sigma)
    sigma_y, angle = sigma_x, 0.0
    if kind.endswith("aniso"):
        sigma_y = draws.uniform(options.sigma)
        angle = draws.uniform([-math.pi, math.pi])
    name = kind.replace("_", " ")
    draws.say(f"blur {name} {size} px sigma {sigma_x:.1f}/{sigma_y:.1f}")
    if kind.startswith("generalized"):
        beta = _beta(draws, options.beta_generalized)
        return gaussian(size, sigma_x, sigma_y, angle, beta)
    if kind.startswith("plateau"):
        return plateau(size, sigma_x, sigma_y, angle, _beta(draws, options.beta_plateau))
    return gaussian(size, sigma_x, sigma_y, angle)


def random_sinc(size: int, low: float, draws: Draws) -> Kernel:
    """Returns a sinc kernel `[size, size]`, summing to 1, whose cutoff is drawn from `low` to π
    radians."""
    cutoff = draws.uniform([low, math.pi])
    draws.say(f"sinc {size} px cutoff {cutoff:.1f}")
    return sinc(size, cutoff)


def _beta(draws: Draws, limits: list[float]) -> float:
    """Returns a shape below or above 1 with equal odds, as published."""
    low, high = limits
    below = draws.happens(0.5)
    return draws.uniform([low, 1.0] if below else [1.0, high])
