"""Image quality metrics, each named with its protocol."""

from srmodels.metrics.fidelity import (
    SMALLEST,
    NoScoreError,
    psnr_rgb,
    psnr_y,
    ssim_rgb,
    ssim_y,
    to_y,
)
from srmodels.metrics.lpips import LPIPS

__all__ = [
    "LPIPS",
    "SMALLEST",
    "NoScoreError",
    "psnr_rgb",
    "psnr_y",
    "ssim_rgb",
    "ssim_y",
    "to_y",
]
