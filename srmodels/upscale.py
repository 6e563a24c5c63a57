"""Upscaling pictures with a network: colour modes, transparency and orientation kept right."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from srmodels.tiling import count_tiles, run_tiled


@dataclass(frozen=True)
class Tiling:
    """Side of a tile and what neighbours share, in LR pixels."""

    tile: int = 128
    overlap: int = 32

    @classmethod
    def for_tile(cls, tile: int) -> "Tiling":
        """Returns a tiling whose neighbours share a quarter of a tile: the Edge-SD-SR paper counts
        tiles that way."""
        return cls(tile, tile // 4)


def to_tensor(rgb: NDArray[np.uint8]) -> Tensor:
    """Returns `[1, 3, H, W]` float32 in [0, 1] from `[H, W, 3]` uint8."""
    pixels = torch.from_numpy(np.ascontiguousarray(rgb).copy())
    return pixels.permute(2, 0, 1)[None].float() / 255.0


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """Returns `[H, W, 3]` uint8 from `[1, 3, H, W]` in [0, 1]; values outside are clipped."""
    scaled = x[0].clamp(0, 1).mul_(255.0).round_()
    pixels: NDArray[np.uint8] = scaled.byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


@torch.inference_mode()
def upscale_image(
    network: Callable[[Tensor], Tensor],
    image: Image.Image,
    *,
    scale: int,
    tiling: Tiling = Tiling(),
    batch_size: int = 1,
    color_fix: Callable[[Tensor, Tensor], Tensor] | None = None,
    on_tile: Callable[[int], None] = lambda done: None,
) -> Image.Image:
    """Returns the image, `scale` times as large along each side.

    EXIF orientation is applied, so the result stands upright without the tag; the ICC profile is
    kept. Transparency is enlarged by bicubic interpolation; colours are taken from under it.
    Grayscale stays grayscale; palette images become RGB or RGBA.

    Args:
        network: maps LR tiles `[B, 3, tile, tile]` in [0, 1] to HR tiles.
        image: any Pillow image; 16-bit and float images are reduced to 8 bits.
        batch_size: tiles that go through the network at once, at most.
        color_fix: gives the result the colours of its second argument, the image enlarged by
            bicubic interpolation (see `srmodels.color`).
    """
    # A profile only fits the colours it was made for; CMYK, for one, is converted.
    kept = image.mode in ("RGB", "RGBA", "P", "L", "LA")
    profile = image.info.get("icc_profile") if kept else None
    image = _eight_bit(ImageOps.exif_transpose(image))
    gray = image.mode in ("1", "L", "LA", "La")
    transparent = image.has_transparency_data
    size = (image.width * scale, image.height * scale)
    alpha = image.convert("RGBA").getchannel("A") if transparent else None
    rgb = np.asarray(image.convert("RGBA").convert("RGB") if transparent else image.convert("RGB"))
    x_l = to_tensor(rgb)
    enlarged = run_tiled(
        network,
        x_l,
        scale=scale,
        tile=tiling.tile,
        overlap=tiling.overlap,
        batch_size=batch_size,
        on_tile=on_tile,
    )
    if color_fix is not None:
        enlarged = color_fix(enlarged, F.interpolate(x_l, enlarged.shape[2:], mode="bicubic"))
    result = Image.fromarray(to_pixels(enlarged))
    if gray:
        result = result.convert("L")
    if alpha is not None:
        result.putalpha(alpha.resize(size, Image.Resampling.BICUBIC))
    if profile:
        result.info["icc_profile"] = profile
    return result


def num_tiles(image: Image.Image, tiling: Tiling) -> int:
    """Returns how many tiles `upscale_image` takes for this image, whichever way it is turned."""
    upright = ImageOps.exif_transpose(image)
    return count_tiles(upright.height, upright.width, tiling.tile, tiling.overlap)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray((values / 65535.0 * 255.0).round().clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray((np.asarray(image) * 255.0).round().clip(0, 255).astype(np.uint8))
    return image
