"""Image quality metrics, each named with its protocol."""

from srmodels.metrics.fidelity import SMALLEST, psnr_y, ssim_y, to_y
from srmodels.metrics.lpips import LPIPS

__all__ = ["LPIPS", "SMALLEST", "psnr_y", "ssim_y", "to_y"]
