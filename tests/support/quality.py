"""Benchmark sets, methods and scores for what measures a model's quality."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.registry.models import Model
from srmodels.metrics import psnr_y, ssim_y
from srmodels.metrics.lpips import LPIPS
from srmodels.upscale import Tiling, to_tensor, upscale_image

Pixels = NDArray[np.uint8]
Method = Callable[[Pixels], Pixels]
SCALE = 4


def pairs(data: Path, name: str, every: int = 1) -> Iterator[tuple[Pixels, Pixels]]:
    """(LR, HR) of a set at ×4, of every so many images the first."""
    for path in sorted((data / "benchmarks" / name).rglob("*_HR.png"))[::every]:
        images = (Image.open(file) for file in (str(path).replace("_HR.", "_LR."), path))
        low, hr = (np.asarray(image.convert("RGB")) for image in images)
        yield low, hr


def bicubic(low: Pixels) -> Pixels:
    """By Pillow."""
    height, width = low.shape[:2]
    size = (SCALE * width, SCALE * height)
    return np.asarray(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))


def upscaler(model: Model) -> Method:
    """As `srforge upscale` does it."""
    tiling = Tiling.for_tile(model.config.export.tile)

    def upscale(low: Pixels) -> Pixels:
        image = upscale_image(model.network, Image.fromarray(low), scale=SCALE, tiling=tiling)
        return np.asarray(image)

    return upscale


def scores(sr: Pixels, hr: Pixels, backbones: Sequence[str] = ("alex", "vgg")) -> dict[str, float]:
    """PSNR and SSIM on Y with a border of 4 px left out; LPIPS on the whole image, in RGB, where
    its weights are at hand (vgg takes seconds per image)."""
    found = {"PSNR-Y": psnr_y(sr, hr, SCALE), "SSIM-Y": ssim_y(sr, hr, SCALE)}
    if os.environ.get("SRFORGE_WEIGHTS"):
        for backbone in backbones:
            with torch.inference_mode():
                distance = _lpips(backbone)(to_tensor(sr), to_tensor(hr)).mean()
            found[f"LPIPS ({backbone})"] = float(distance)
    return found


@cache
def _lpips(backbone: str) -> LPIPS:
    lpips = LPIPS(backbone).eval()
    lpips.load()
    return lpips
