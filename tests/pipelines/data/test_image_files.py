"""Pictures are written in bands, as Pillow would write them whole, in little memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image, ImageCms

from pipelines.data.image_files import FORMATS, check_fits, write_picture
from pipelines.errors import UserError
from srmodels.color import COLOR_FIXES
from srmodels.latency import peak_bytes
from srmodels.tiling import Tiling
from srmodels.upscale import upscale_bands
from tests.pipelines.data.test_images import ramp

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(mode: str) -> Image.Image:
    alpha = Image.fromarray(ramp(90, 30)[..., 1])
    image = Image.fromarray(ramp(90, 30))
    image.putalpha(alpha)
    return image if mode == "RGBA" else image.convert(mode)


def banded(image: Image.Image, height: int) -> Iterator[Image.Image]:
    for top in range(0, image.height, height):
        yield image.crop((0, top, image.width, min(top + height, image.height)))


@pytest.mark.parametrize("height", [1, 40, 90])
@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        (suffix, mode)
        for suffix, target in FORMATS.items()
        for mode in ("L", "LA", "RGB", "RGBA")
        if target.name != "JPEG" or "A" not in mode
    ],
)
def test_a_picture_in_bands_is_the_whole_picture(
    tmp_path: Path, suffix: str, mode: str, height: int
) -> None:
    image, (found, whole) = picture(mode), (tmp_path / f"{n}{suffix}" for n in "ab")
    write_picture(found, suffix, image.size, banded(image, height), PROFILE)
    image.save(whole, icc_profile=PROFILE, **FORMATS[suffix].options)
    with Image.open(found) as one, Image.open(whole) as other:
        one.load()
        assert one.mode == other.mode
        assert one.info["icc_profile"] == PROFILE
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert sorted(tmp_path.iterdir()) == [found, whole], "temporary files are gone"


@pytest.mark.parametrize(
    ("size", "transparent", "suffix", "message"),
    [
        ((16384, 10), False, ".webp", r"WEBP ends at 16383 px: write .png or .jpg or .jpeg."),
        ((10, 16384), True, ".webp", r"WEBP ends at 16383 px: write .png."),
        ((65501, 10), False, ".jpg", r"JPEG ends at 65500 px: write .png."),
        ((10, 10), True, ".jpg", "JPEG cannot hold: write .png or .webp"),
    ],
)
def test_a_format_that_cannot_hold_a_picture_is_told_with_those_that_can(
    size: tuple[int, int], transparent: bool, suffix: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_fits(Path("a.png"), size, transparent, Path(f"b{suffix}"))
    check_fits(Path("a.png"), (10, 65501), transparent, Path("b.png"))


@pytest.mark.parametrize(
    ("suffix", "color_fix", "bytes_per_pixel"),
    [(".png", None, 4), (".png", "adain", 4), (".png", "wavelet", 4), (".jpg", None, 8)],
)
def test_memory_does_not_grow_with_the_height(
    tmp_path: Path, suffix: str, color_fix: str | None, bytes_per_pixel: int
) -> None:
    """A mapped file of 4 bytes per pixel counts for JPEG, though the kernel may drop it."""

    def peak(height: int) -> int:
        image = Image.new("RGB", (64, height), (10, 200, 30))

        def write() -> None:
            bands = upscale_bands(
                lambda x: F.interpolate(x, scale_factor=4, mode="nearest"),
                image,
                scale=4,
                tiling=Tiling(64, 16),
                color_fix=COLOR_FIXES.get(color_fix or ""),
                scratch=tmp_path,
            )
            write_picture(tmp_path / f"b{suffix}", suffix, (256, 4 * height), bands, None)

        found = peak_bytes(write)
        if found is None:
            pytest.skip("the kernel does not tell the peak of memory")
        return found

    peak(200)  # what is loaded once
    low, high = 1_000, 3_000
    grown = peak(high) - peak(low)
    assert grown < bytes_per_pixel * (high - low) * 4 * 256
