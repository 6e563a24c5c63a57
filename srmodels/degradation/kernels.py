"""Blur kernels of Real-ESRGAN's degradation: (an)isotropic, generalised, plateau and sinc.

Source: Wang et al., "Real-ESRGAN" (arXiv 2107.10833), §3; the generalised and plateau shapes are
from Liu et al., "Estimating Generalized Gaussian Blur Kernels".
"""

import math

import numpy as np
from numpy.typing import NDArray

Kernel = NDArray[np.float64]


def _squared_distance(size: int, sigma_x: float, sigma_y: float, angle: float) -> Kernel:
    """Mahalanobis distance² of every kernel cell from the centre, `[size, size]`."""
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, axis)
    u = math.cos(angle) * x + math.sin(angle) * y
    v = -math.sin(angle) * x + math.cos(angle) * y
    distance: Kernel = (u / sigma_x) ** 2 + (v / sigma_y) ** 2
    return distance


def gaussian(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float = 1.0) -> Kernel:
    """(Generalised) Gaussian `[size, size]`, summing to 1; `beta` 1 is the ordinary Gaussian."""
    kernel: Kernel = np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, angle) ** beta)
    return _normalised(kernel)


def plateau(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> Kernel:
    """Plateau-shaped kernel `[size, size]`, summing to 1."""
    kernel: Kernel = 1.0 / (1.0 + _squared_distance(size, sigma_x, sigma_y, angle) ** beta)
    return _normalised(kernel)


def sinc(size: int, cutoff: float) -> Kernel:
    """Circular low-pass `[size, size]`, summing to 1: makes ringing. `cutoff` in radians."""
    from scipy.special import j1

    axis = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    radius[size // 2, size // 2] = 1.0
    kernel: Kernel = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return _normalised(kernel)


def _normalised(kernel: Kernel) -> Kernel:
    result: Kernel = kernel / kernel.sum()
    return result


KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def random_kernel(
    generator: np.random.Generator,
    *,
    sigma: tuple[float, float],
    odds: tuple[float, ...],
    sinc_probability: float,
    beta_generalized: tuple[float, float],
    beta_plateau: tuple[float, float],
) -> Kernel:
    """One kernel of odd size 7–21, its kind drawn by `odds` over `KINDS`, or sinc."""
    size = int(generator.integers(3, 11)) * 2 + 1
    if generator.random() < sinc_probability:
        low = math.pi / 3 if size < 13 else math.pi / 5
        return sinc(size, generator.uniform(low, math.pi))
    kind = KINDS[generator.choice(len(KINDS), p=np.asarray(odds) / sum(odds))]
    sigma_x = generator.uniform(*sigma)
    sigma_y, angle = sigma_x, 0.0
    if not kind.endswith("_iso") and kind != "iso":
        sigma_y, angle = generator.uniform(*sigma), generator.uniform(-math.pi, math.pi)
    if kind.startswith("generalized"):
        return gaussian(size, sigma_x, sigma_y, angle, _beta(generator, beta_generalized))
    if kind.startswith("plateau"):
        return plateau(size, sigma_x, sigma_y, angle, _beta(generator, beta_plateau))
    return gaussian(size, sigma_x, sigma_y, angle)


def _beta(generator: np.random.Generator, limits: tuple[float, float]) -> float:
    """Below and above 1 with equal odds, as in the paper's code."""
    low, high = limits
    return generator.uniform(low, 1.0) if generator.random() < 0.5 else generator.uniform(1.0, high)
