"""How an image becomes a test and gets its score: the same for reports and for validation during
training."""

import numpy as np

from pipelines.config.schema import Config
from pipelines.data.order import sample_seed
from pipelines.evaluation.pictures import Pixels
from srmodels.degradation import Draws, degrade
from srmodels.metrics import psnr_y

#: What an image without any error counts as, in dB: infinity would swallow the mean.
MAX_PSNR = 100.0


def low_resolution(config: Config, hr: Pixels, key: str) -> Pixels:
    """LR `[H/scale, W/scale, 3]` of an HR image by the recipe's degradation, always the same for
    the sample's key."""
    generator = np.random.Generator(np.random.Philox(key=sample_seed(config.seed, key, 0)))
    return degrade(hr, config.networks.scale, config.degradation.options, Draws(generator))


def psnr(config: Config, sr: Pixels, hr: Pixels) -> float:
    """PSNR on luma in dB, at most `MAX_PSNR`."""
    return min(psnr_y(sr, hr, config.crop_border), MAX_PSNR)
