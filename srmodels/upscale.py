"""Upscaling pictures with a network: colour modes, transparency and orientation kept right."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from srmodels.color import ColorFix
from srmodels.tiling import Cut, Tiling, run_bands

_ORIENTATION = 0x0112
#: Modes whose colours are multiplied by their transparency, with those that Pillow makes of them.
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


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
def upscale_bands(
    network: Callable[[Tensor], Tensor],
    image: Image.Image,
    *,
    scale: int,
    tiling: Tiling = Tiling(),
    batch_size: int = 1,
    color_fix: ColorFix | None = None,
    scratch: Path | None = None,
    on_tile: Callable[[int], None] = lambda done: None,
) -> Iterator[Image.Image]:
    """Yields the image, `scale` times as large along each side, in bands from top to bottom.

    Memory beside the image itself does not depend on its height. EXIF orientation is applied, so
    the result stands upright without the tag. Transparency is enlarged by bicubic interpolation;
    colours are taken from under it. Grayscale stays grayscale; palette images become RGB or RGBA.

    Args:
        network: maps LR tiles `[B, 3, h, w]` in [0, 1] to HR tiles.
        image: any Pillow image of 8 bits, or gray of 16 bits, which is reduced to 8.
        batch_size: tiles that go through the network at once, at most.
        color_fix: gives the result the colours of the image enlarged by bicubic interpolation (see
            `srmodels.color`).
        scratch: folder for the temporary files of `color_fix`; None: the system's.
        on_tile: called with the number of tiles after each time.

    Raises:
        ValueError: the pixels have no defined range, or the tiling's overlap is too large.
    """
    image = eight_bit(upright(image))
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    gray, transparent = image.mode in ("1", "L", "LA"), image.has_transparency_data
    alpha = _alpha(image) if transparent else None

    def cut(top: int, left: int, bottom: int, right: int) -> Tensor:
        part = image.crop((left, top, right, bottom))
        return to_tensor(np.asarray((part.convert("RGBA") if transparent else part).convert("RGB")))

    bands = run_bands(
        network,
        cut,
        (image.height, image.width),
        scale=scale,
        tiling=tiling,
        batch_size=batch_size,
        on_tile=on_tile,
    )
    if color_fix is not None:
        bands = color_fix(_with_reference(bands, cut, image.size, scale), scratch)
    top = 0
    for band in bands:
        result = Image.fromarray(to_pixels(band))
        if gray:
            result = result.convert("L")
        if alpha is not None:
            result.putalpha(_enlarged_alpha(alpha, scale, top, top + result.height))
        yield result
        top += result.height


def upscale_image(
    network: Callable[[Tensor], Tensor], image: Image.Image, *, scale: int, **options: Any
) -> Image.Image:
    """Returns the bands of `upscale_bands` as one image, with the colour profile.

    Args:
        options: further arguments of `upscale_bands`.
    """
    bands = list(upscale_bands(network, image, scale=scale, **options))
    result = Image.new(bands[0].mode, (bands[0].width, sum(band.height for band in bands)))
    top = 0
    for band in bands:
        result.paste(band, (0, top))
        top += band.height
    if profile := kept_profile(image):
        result.info["icc_profile"] = profile
    return result


def kept_profile(image: Image.Image) -> bytes | None:
    """Returns the colour profile that still fits the upscaled image: CMYK, for one, is
    converted."""
    kept = image.mode in ("RGB", "RGBA", "P", "L", "LA")
    profile = image.info.get("icc_profile")
    return profile if kept and isinstance(profile, bytes) else None  # TIFF's may be anything


def num_tiles(image: Image.Image, tiling: Tiling) -> int:
    """Returns how many tiles the image takes, whichever way it is turned."""
    turned = upright(image)
    return tiling.count(turned.height, turned.width)


def upright(image: Image.Image) -> Image.Image:
    """Returns the image as EXIF says that it is to be seen; the same object if it stands
    already."""
    if image.getexif().get(_ORIENTATION, 1) == 1:  # Pillow's function would copy it
        return image
    return ImageOps.exif_transpose(image)


def eight_bit(image: Image.Image) -> Image.Image:
    """Returns the image with 8 bits per channel: 65535 becomes 255, and all steps are equal.

    A gray value that means transparent (PNG's chunk tRNS) becomes an alpha channel.

    Raises:
        ValueError: the pixels have no defined range (32-bit integers, floats).
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range: convert them first.")
    if not image.mode.startswith("I;16"):
        return image
    wide = np.asarray(image).astype(np.uint32)
    result = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        result.putalpha(Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8)))
    if profile := image.info.get("icc_profile"):
        result.info["icc_profile"] = profile
    return result


def _alpha(image: Image.Image) -> Image.Image:
    return (image if "A" in image.getbands() else image.convert("RGBA")).getchannel("A")


def _with_reference(
    bands: Iterable[Tensor], cut: Cut, size: tuple[int, int], scale: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each band with the same band of the image enlarged by bicubic interpolation."""
    width, height = size
    top = 0
    for band in bands:
        rows = band.shape[2]
        first, last, skipped = _surroundings(height, scale, top, top + rows)
        low = cut(first, 0, last, width)
        large = F.interpolate(low, scale_factor=scale, mode="bicubic")
        yield band, large[:, :, skipped : skipped + rows].to(band)
        top += rows


def _enlarged_alpha(alpha: Image.Image, scale: int, top: int, bottom: int) -> Image.Image:
    """Returns rows of a channel enlarged by bicubic interpolation."""
    first, last, skipped = _surroundings(alpha.height, scale, top, bottom)
    width = alpha.width * scale
    part = alpha.crop((0, first, alpha.width, last))
    large = part.resize((width, part.height * scale), Image.Resampling.BICUBIC)
    return large.crop((0, skipped, width, skipped + bottom - top))


def _surroundings(height: int, scale: int, top: int, bottom: int) -> tuple[int, int, int]:
    """Returns the LR rows (first, after the last) that bicubic interpolation reads for HR rows, and
    the number of HR rows that they give above `top`."""
    first = max(top // scale - 3, 0)
    return first, min(-(-bottom // scale) + 3, height), top - first * scale
