from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from srmodels.color import Bands
from srmodels.tiling import Tiling
from srmodels.upscale import num_tiles, to_tensor, upscale_image

TILING = Tiling(tile=16, overlap=4)


def nearest(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=4, mode="nearest")


def enlarge(image: Image.Image) -> Image.Image:
    return upscale_image(nearest, image, scale=4, tiling=TILING)


def picture(mode: str = "RGB", size: tuple[int, int] = (21, 13)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    return image.convert(mode) if "A" in mode else image.convert("RGB").convert(mode)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("RGB", "RGB"), ("L", "L"), ("P", "RGB"), ("RGBA", "RGBA"), ("LA", "LA"), ("1", "L"),
     ("CMYK", "RGB"), ("I;16", "L")],
)  # fmt: skip
def test_every_mode_keeps_its_meaning(mode: str, expected: str) -> None:
    result = enlarge(picture("L").convert(mode) if mode == "I;16" else picture(mode))
    assert result.mode == expected
    assert result.size == (84, 52)


def test_a_color_fix_is_given_the_enlarged_photo() -> None:
    image, references = picture(), []

    def keep(bands: Bands, scratch: Path | None) -> Iterator[torch.Tensor]:
        for _, reference in bands:
            references.append(reference)
            yield reference

    result = upscale_image(nearest, image, scale=4, tiling=TILING, color_fix=keep)
    expected = np.asarray(image.resize((84, 52), Image.Resampling.BICUBIC)).astype(int)
    assert references[0].shape == (1, 3, 52, 84)
    # Pillow's bicubic has another constant (-0.5 for torch's -0.75) and mirrors the border.
    assert np.abs(np.asarray(result).astype(int) - expected).mean() < 6  # bilinear: 11


def test_bands_of_a_tall_picture_fit_together() -> None:
    """The references and the transparency of single bands are those of the whole picture."""
    image, references = picture("RGBA", (21, 150)), []

    def keep(bands: Bands, scratch: Path | None) -> Iterator[torch.Tensor]:
        for band, reference in bands:
            references.append(reference)
            yield band

    result = upscale_image(nearest, image, scale=4, tiling=TILING, color_fix=keep)
    rgb = to_tensor(np.asarray(image.convert("RGB")))
    whole = F.interpolate(rgb, (600, 84), mode="bicubic")
    assert len(references) > 4
    assert torch.allclose(torch.cat(references, dim=2), whole, atol=1e-6)
    alpha = image.getchannel("A").resize((84, 600), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(result.getchannel("A")), np.asarray(alpha))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="no defined range"):
        enlarge(Image.new(mode, (8, 8)))


def test_colours_come_through_exactly() -> None:
    image = picture()
    assert np.array_equal(
        np.asarray(enlarge(image)), np.asarray(image.resize((84, 52), Image.Resampling.NEAREST))
    )


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).astype(np.uint16)
    result = np.asarray(enlarge(Image.fromarray(values)))
    assert np.array_equal(result[::4, ::4].ravel(), np.arange(256))


def test_transparency_is_enlarged_with_the_picture() -> None:
    image = picture("RGBA")
    alpha = np.zeros((13, 21), np.uint8)
    alpha[:, 10:] = 255
    image.putalpha(Image.fromarray(alpha))
    result = np.asarray(enlarge(image).getchannel("A"))
    assert result[:, :36].max() == 0
    assert result[:, 48:].min() == 255


def test_colours_under_full_transparency_do_not_bleed_in() -> None:
    """Transparent pixels keep their own colour; nothing is premultiplied."""
    image = Image.new("RGBA", (16, 16), (200, 10, 20, 0))
    assert np.asarray(enlarge(image))[0, 0].tolist() == [200, 10, 20, 0]


def test_a_rotated_photo_stands_upright_and_loses_the_tag() -> None:
    image = picture()
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it right
    image.info["exif"] = exif.tobytes()
    result = enlarge(image)
    assert result.size == (52, 84)
    turned = image.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(
        np.asarray(result), np.asarray(turned.resize((52, 84), Image.Resampling.NEAREST))
    )
    assert 0x0112 not in result.getexif()
    assert num_tiles(image, TILING) == 2


def test_the_colour_profile_is_kept() -> None:
    image = picture()
    image.info["icc_profile"] = b"a profile"
    assert enlarge(image).info["icc_profile"] == b"a profile"


@pytest.mark.parametrize(("mode", "result"), [("La", "LA"), ("RGBa", "RGBA")])
def test_colours_that_are_multiplied_by_their_transparency_are_divided_first(
    mode: str, result: str
) -> None:
    plain = picture(result)
    large = enlarge(plain.convert(mode))
    assert large.mode == result
    expected = enlarge(plain.convert(mode).convert(result))
    assert np.array_equal(np.asarray(large), np.asarray(expected))
