"""Every kind of messy photo file has a defined outcome."""

import struct
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipelines.data.images import Size, UnusableError, decode_photo, open_photo, photo_size

LIMIT = 10.0


def ramp(height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 12, 255 - x * 4], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_of(bits: int, color: int, pixels: bytes, width: int, height: int) -> bytes:
    """A PNG that Pillow itself would not write."""
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    row = len(pixels) // height
    data = b"".join(b"\0" + pixels[i * row : (i + 1) * row] for i in range(height))
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_plain_photos_are_read_as_they_are() -> None:
    pixels = ramp()
    assert np.array_equal(decode_photo(encoded(Image.fromarray(pixels), "PNG"), LIMIT), pixels)
    assert photo_size(encoded(Image.fromarray(pixels), "PNG"), LIMIT) == Size(30, 20)


def test_gray_and_two_colour_images_get_three_equal_channels() -> None:
    gray = Image.fromarray(ramp()[..., 0])
    found = decode_photo(encoded(gray, "PNG"), LIMIT)
    assert np.array_equal(found, np.stack([ramp()[..., 0]] * 3, axis=-1))
    bilevel = decode_photo(encoded(gray.convert("1"), "PNG"), LIMIT)
    assert set(np.unique(bilevel)) == {0, 255}


def test_palettes_are_looked_up_and_their_transparency_laid_on_white() -> None:
    image = Image.fromarray(ramp()).quantize(16)
    found = decode_photo(encoded(image, "PNG"), LIMIT)
    assert np.array_equal(found, np.asarray(image.convert("RGB")))
    clear = decode_photo(encoded(image, "PNG", transparency=image.getpixel((0, 0))), LIMIT)
    assert tuple(clear[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 100), (128, 177)])
def test_alpha_is_laid_on_white(alpha: int, expected: int) -> None:
    image = Image.new("RGBA", (8, 8), (100, 100, 100, alpha))
    assert decode_photo(encoded(image, "PNG"), LIMIT)[0, 0, 0] == expected
    gray = Image.new("LA", (8, 8), (100, alpha))
    assert decode_photo(encoded(gray, "PNG"), LIMIT)[0, 0, 2] == expected


def test_sixteen_bits_become_eight() -> None:
    wide = np.array([[0, 128, 257, 32768, 65407, 65535]], dtype=np.uint16)
    found = decode_photo(encoded(Image.fromarray(wide), "PNG"), LIMIT)
    assert found[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]
    rgb = np.stack([wide, wide, wide], axis=-1)
    colour = decode_photo(png_of(16, 2, rgb.astype(">u2").tobytes(), 6, 1), LIMIT)
    assert colour.shape == (1, 6, 3)
    assert np.abs(colour[0, :, 0].astype(int) - found[0, :, 0]).max() <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode: str) -> None:
    data = encoded(Image.new(mode, (8, 8)), "TIFF")
    with pytest.raises(UnusableError, match="without a defined range"):
        decode_photo(data, LIMIT)


def tiff_of(bits: int, pixels: bytes, width: int, height: int) -> bytes:
    """A gray TIFF that Pillow itself would not write."""
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 1),
        (273, 8), (277, 1), (278, height), (279, len(pixels)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_sixteen_bits_of_a_tiff_are_scaled_and_twelve_refused() -> None:
    """Pillow does not scale 12 bits to 16, so they would be dark."""
    wide = tiff_of(16, np.array([0, 257, 65535], "<u2").tobytes(), 3, 1)
    assert decode_photo(wide, LIMIT)[0, :, 0].tolist() == [0, 1, 255]
    for read in (photo_size, decode_photo):
        with pytest.raises(UnusableError, match="pixels of 12 bits"):
            read(tiff_of(12, bytes(3), 2, 1), LIMIT)


def test_cmyk_is_converted() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    red = decode_photo(data, LIMIT)[8, 8]
    assert red[0] > 230
    assert max(red[1:]) < 40


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(ramp()), "PNG", exif=exif)
    found = decode_photo(data, LIMIT)
    turned = {1: ramp(), 3: ramp()[::-1, ::-1], 6: np.rot90(ramp(), -1), 8: np.rot90(ramp())}
    if orientation in turned:
        assert np.array_equal(found, turned[orientation])
    assert sorted(found.shape[:2]) == [20, 30]
    assert photo_size(data, LIMIT) == Size(30, 20), "as it is stored"


def swapped_profile() -> bytes:
    """An RGB profile whose red is sRGB's blue and the other way round."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(struct.unpack_from(">I", data, 128)[0]):
        at = 132 + 12 * number
        name = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return bytes(data).replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


def test_broken_metadata_is_a_failure_and_no_traceback() -> None:
    """Pillow raises struct.error for an EXIF block that is cut short."""
    data = encoded(Image.fromarray(ramp()), "PNG", exif=b"Exif\0\0MM\0*\0\0")
    with pytest.raises(UnusableError, match="truncated or corrupt"):
        decode_photo(data, LIMIT)


def test_colour_profiles_are_applied() -> None:
    image = Image.new("RGB", (8, 8), (200, 30, 60))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = decode_photo(encoded(image, "PNG", icc_profile=own), LIMIT)
    assert tuple(same[0, 0]) == (200, 30, 60)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(image, kind, icc_profile=swapped_profile(), **options)
        found = decode_photo(data, LIMIT)[0, 0].astype(int)
        assert np.abs(found - (60, 30, 200)).max() <= 3


def test_a_profile_of_several_mib_is_no_damage() -> None:
    profile = bytes(3 << 20)
    data = encoded(Image.fromarray(ramp()), "PNG", icc_profile=profile)
    assert (decode_photo(data, LIMIT) == ramp()).all()
    assert open_photo(BytesIO(data), LIMIT).info["icc_profile"] == profile


def test_transparency_of_16_bit_gray_is_kept() -> None:
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    data = encoded(Image.fromarray(wide), "PNG")
    at = data.index(b"IDAT") - 4
    clear = chunk(b"tRNS", struct.pack(">H", 5000))
    photo = open_photo(BytesIO(data[:at] + clear + data[at:]), LIMIT)
    assert photo.mode == "LA"
    assert (np.asarray(photo.getchannel("A")) == np.where(wide == 5000, 0, 255)).all()


def test_a_broken_profile_leaves_the_values_as_they_are() -> None:
    data = encoded(Image.fromarray(ramp()), "PNG", icc_profile=b"not a profile")
    assert np.array_equal(decode_photo(data, LIMIT), ramp())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_not_photos_and_no_failures(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 100, 200)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(UnusableError, match="animation") as error:
        photo_size(data, LIMIT)
    assert not error.value.failure


def test_of_several_pages_or_exposures_the_first_counts() -> None:
    pages = [Image.fromarray(ramp()), Image.new("RGB", (5, 5))]
    for kind in ("TIFF", "MPO"):
        data = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
        assert decode_photo(data, LIMIT).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_and_corrupt_files_are_failures(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for broken in (data[: len(data) // 2], data[:30]):
        with pytest.raises(UnusableError) as error:
            decode_photo(broken, LIMIT)
        assert error.value.failure


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(encoded(Image.fromarray(ramp(64, 64)), "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(UnusableError, match="truncated or corrupt"):
        decode_photo(bytes(data), LIMIT)


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg></svg>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_a_failure(data: bytes) -> None:
    with pytest.raises(UnusableError, match=r"not an image|empty file|truncated") as error:
        photo_size(data, LIMIT)
    assert error.value.failure


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


def test_formats_that_nobody_named_are_not_even_opened() -> None:
    """Pillow would start Ghostscript to decode this."""
    with Image.open(BytesIO(POSTSCRIPT)) as image:
        assert image.format == "EPS"
    for read in (photo_size, decode_photo):
        with pytest.raises(UnusableError, match="not an image"):
            read(POSTSCRIPT, LIMIT)


def bombs() -> dict[str, bytes]:
    """Small PNG files that unpack to much, or are cut in their header, by what they are."""
    whole = png_of(8, 0, bytes(4), 2, 2)
    packed = zlib.compress(bytes(10_000_000))
    return {
        "iCCP": whole[:33] + chunk(b"iCCP", b"a\0\0" + packed) + whole[33:],
        "zTXt": whole[:33] + chunk(b"zTXt", b"a\0\0" + packed) + whole[33:],
        "IHDR": whole[:8] + chunk(b"IHDR", bytes(5)) + whole[33:],
    }


@pytest.mark.parametrize(("kind", "data"), bombs().items(), ids=bombs())
def test_bombs_in_metadata_and_cut_headers_are_failures(kind: str, data: bytes) -> None:
    with pytest.raises(UnusableError, match="truncated or corrupt") as error:
        decode_photo(data, LIMIT)
    assert error.value.failure


@pytest.mark.parametrize("damaged", [False, True])
def test_damaged_exif_is_told_where_the_orientation_may_be_lost(damaged: bool) -> None:
    notes: list[str] = []
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes()[: -8 if damaged else None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = open_photo(
            BytesIO(encoded(Image.fromarray(ramp()), "JPEG", exif=data)), LIMIT, notes.append
        )
    assert image.size == ((30, 20) if damaged else (20, 30))
    assert len(notes) == damaged


@pytest.mark.parametrize("side", [5_000, 40_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    data = png_of(8, 0, bytes(side), side, 1)
    bomb = data.replace(struct.pack(">II", side, 1), struct.pack(">II", side, side))
    body = bomb[12:29]
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(body)) + bomb[33:]
    for read in (photo_size, decode_photo):
        with pytest.raises(UnusableError, match="too many pixels"):
            read(bomb, LIMIT)


def test_the_limit_may_be_above_pillow_s_own() -> None:
    """Pillow refuses 179 megapixels by itself; the configured limit is the one that counts."""
    side = 14_000
    data = png_of(1, 0, bytes(side // 8 * side), side, side)
    assert photo_size(data, 200.0) == Size(side, side)


def test_the_error_survives_a_trip_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(UnusableError("why", failure=True)))
    assert (error.reason, error.failure) == ("why", True)
