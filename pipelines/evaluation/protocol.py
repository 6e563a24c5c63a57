"""The protocol of a test: LR from HR, and PSNR; the same for reports and during training."""

import numpy as np

from pipelines.config.schema import Config
from pipelines.data.order import sample_seed
from pipelines.evaluation.pictures import Pixels
from srmodels.degradation import Draws, degrade
from srmodels.metrics import psnr_y

#: PSNR of an image without any error, in dB: infinity would swallow the mean.
MAX_PSNR = 100.0


def low_resolution(config: Config, hr: Pixels, key: str) -> Pixels:
    """Returns LR `[H/scale, W/scale, 3]` of HR `[H, W, 3]`, both uint8, by the recipe's
    degradation; the same key always gives the same LR."""
    generator = np.random.Generator(np.random.Philox(key=sample_seed(config.seed, key, 0)))
    return degrade(hr, config.networks.scale, config.degradation.options, Draws(generator))


def psnr(config: Config, sr: Pixels, hr: Pixels) -> float:
    """Returns the PSNR of two images `[H, W, 3]` uint8 on luma in dB, at most `MAX_PSNR`."""
    return min(psnr_y(sr, hr, config.crop_border), MAX_PSNR)
