"""PSNR and SSIM by the protocol of the super-resolution literature, on luma or on RGB.

Y is BT.601 in studio range (16–235), computed from 8-bit RGB and rounded to 8 bits as MATLAB's
`rgb2ycbcr` does: without the rounding, bicubic's published SSIM (Set5 ×4: .8104) comes out .0008
too high. A border of `crop` pixels, usually the scale, is left out. Images are `[H, W, 3]` uint8
RGB of one size; with crop 4 the metrics are reported as `psnr_y_crop4` and so on.

All raise ValueError where the sizes differ, NoScoreError where less than `SMALLEST` px are left.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
#: `[H, W, C]`.
Channels = NDArray[np.float64]
#: Side of the smallest image, without its border, that has a score.
SMALLEST = 11


class NoScoreError(ValueError):
    """A metric cannot judge this image: it has too few pixels, or nothing on it."""


def to_y(rgb: Pixels) -> NDArray[np.float64]:
    """Returns luma `[H, W]`, whole numbers 16–235, of `[H, W, 3]` uint8 RGB (ITU-R BT.601)."""
    weights = np.array([65.481, 128.553, 24.966])
    y: NDArray[np.float64] = (rgb.astype(np.float64) @ weights / 255.0 + 16.0).round()
    return y


def psnr_y(a: Pixels, b: Pixels, crop: int) -> float:
    """Returns the peak signal-to-noise ratio on Y in dB, peak 255; infinite for equal images."""
    return _psnr(*(to_y(image)[..., None] for image in _inner(a, b, crop)))


def psnr_rgb(a: Pixels, b: Pixels, crop: int) -> float:
    """Returns the same over the three channels together."""
    return _psnr(*(image.astype(np.float64) for image in _inner(a, b, crop)))


def ssim_y(a: Pixels, b: Pixels, crop: int) -> float:
    """Returns the structural similarity on Y (Wang et al. 2004): Gaussian window 11, sigma 1.5, no
    padding."""
    return _ssim(*(to_y(image)[..., None] for image in _inner(a, b, crop)))


def ssim_rgb(a: Pixels, b: Pixels, crop: int) -> float:
    """Returns the same, the mean of the three channels."""
    return _ssim(*(image.astype(np.float64) for image in _inner(a, b, crop)))


def _psnr(a: Channels, b: Channels) -> float:
    mse = float(np.mean((a - b) ** 2))
    return float("inf") if mse == 0 else 10 * float(np.log10(255.0**2 / mse))


def _ssim(a: Channels, b: Channels) -> float:
    # Channels as samples of a batch.
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[:, None] for image in (a, b))
    axis = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = window / window.sum()

    def blur(image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(image, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    ssim = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(ssim.mean())


def _inner(a: Pixels, b: Pixels, crop: int) -> tuple[Pixels, Pixels]:
    if a.shape != b.shape:
        raise ValueError(f"cannot compare images of shapes {a.shape} and {b.shape}.")
    if min(a.shape[:2]) - 2 * crop < SMALLEST:
        raise NoScoreError(f"images of shape {a.shape} are too small for a border crop of {crop}.")
    inner = slice(crop, a.shape[0] - crop), slice(crop, a.shape[1] - crop)
    return a[inner], b[inner]
