"""Image quality metrics, each named with its protocol."""

from srmodels.metrics.fidelity import psnr_y, ssim_y, to_y

__all__ = ["psnr_y", "ssim_y", "to_y"]
