"""Image quality metrics, each named with its protocol."""

from srmodels.metrics.fidelity import SMALLEST, psnr_y, ssim_y, to_y

__all__ = ["SMALLEST", "psnr_y", "ssim_y", "to_y"]
