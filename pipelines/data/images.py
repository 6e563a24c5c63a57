"""Decodes photo files of any kind to 8-bit pixels, or says why a file gives no photo.

No other module opens an image file: whoever sends a file chooses the code of Pillow that reads it.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from srmodels.upscale import eight_bit, upright

#: The formats that are read, whatever a file is called. Pillow knows others, and starts other
#: programs for some of them, such as Ghostscript. MPO is a JPEG to Pillow.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "TGA")
#: Formats whose further frames are an animation. In others they are previews or exposures.
_FILMS = {"GIF", "PNG", "WEBP", "AVIF"}
_ORIENTATION = 0x0112
_READER_OF_EXIF = r"PIL\.TiffImagePlugin"
# Pillow unpacks one MiB of a chunk, and refuses the whole photo for more. Profiles of printers are
# larger. Its limit for all chunks together stays.
PngImagePlugin.MAX_TEXT_CHUNK = 4 << 20


class UnusableError(ValueError):
    """A file gives no photo.

    Attributes:
        reason: the words for a report.
        failure: True for a broken file; False for an unwanted one, such as an animation.
    """

    def __init__(self, reason: str, *, failure: bool) -> None:
        super().__init__(reason)
        self.reason, self.failure = reason, failure

    def __reduce__(self) -> tuple[object, ...]:
        return _unusable, (self.reason, self.failure)


class TooManyPixelsError(UnusableError):
    """A photo is larger than its reader allows.

    Attributes:
        megapixels: the size in its header.
    """

    def __init__(self, megapixels: float) -> None:
        reason = f"too many pixels ({megapixels:.0f} megapixels: shard.max_megapixels)"
        super().__init__(reason, failure=True)
        self.megapixels = megapixels


def _unusable(reason: str, failure: bool) -> UnusableError:
    return UnusableError(reason, failure=failure)


@dataclass(frozen=True)
class Size:
    """The size of a photo in pixels, as it is stored, before EXIF rotation."""

    width: int
    height: int


def photo_size(data: bytes, max_megapixels: float) -> Size:
    """Returns the size in a photo's header; decodes no pixel.

    Raises:
        UnusableError: the file is no image, an animation, or larger than `max_megapixels`.
    """
    with _opened(_file(data), max_megapixels) as image:
        return Size(*image.size)


def decode_photo(data: bytes, max_megapixels: float) -> NDArray[np.uint8]:
    """Returns a photo as `[H, W, 3]` uint8 sRGB, upright.

    It converts gray, palette, 16-bit and CMYK images, applies an embedded colour profile, and puts
    transparent pixels on white. It leaves out further pages and exposures.

    Raises:
        UnusableError: the file is no image, truncated, corrupt, an animation, or larger than
            `max_megapixels`, or its pixels have no defined range (32-bit integers, floats).
    """
    with _opened(_file(data), max_megapixels) as image:
        return np.asarray(_to_srgb(eight_bit(upright(image))))


def open_photo(
    file: IO[bytes], max_megapixels: float, on_note: Callable[[str], None] = lambda note: None
) -> Image.Image:
    """Returns a decoded photo of 8 bits per channel, upright, in its own mode and colour profile.

    Args:
        on_note: called with a clause about what was lost on the way.

    Raises:
        TooManyPixelsError: it is larger than `max_megapixels`.
        UnusableError: as `decode_photo`.
    """
    with _opened(file, max_megapixels, on_note) as image:
        image.load()
        return eight_bit(upright(image))


def _file(data: bytes) -> IO[bytes]:
    if not data:
        raise UnusableError("empty file", failure=True)
    return BytesIO(data)


@contextmanager
def _opened(
    file: IO[bytes], max_megapixels: float, on_note: Callable[[str], None] = lambda note: None
) -> Iterator[Image.Image]:
    """Opens an image, and turns every error of Pillow in the block into an UnusableError."""
    # Pillow's limit is one for the whole process; the caller gives the limit that counts here.
    pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module=_READER_OF_EXIF)
            with Image.open(file, formats=_FORMATS) as image:
                _check(image, max_megapixels)
                yield image
                if caught and _ORIENTATION not in image.getexif():
                    on_note("its metadata is damaged, so the picture may lie on its side")
    except UnusableError:
        raise
    except UnidentifiedImageError:
        raise UnusableError("not an image", failure=True) from None
    except MemoryError:
        raise UnusableError("too large for this machine's memory", failure=True) from None
    except Exception as error:
        # Decoders raise errors of any type: OSError, struct.error, RuntimeError, SyntaxError, …
        reason = f"truncated or corrupt ({str(error) or type(error).__name__})"
        raise UnusableError(reason, failure=True) from error
    finally:
        Image.MAX_IMAGE_PIXELS = pillows_limit


def _check(image: Image.Image, max_megapixels: float) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise TooManyPixelsError(megapixels)
    if image.format in _FILMS and getattr(image, "n_frames", 1) > 1:
        raise UnusableError("an animation", failure=False)
    if image.mode in ("I", "F"):
        raise UnusableError(f"pixels without a defined range (mode {image.mode})", failure=True)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode.startswith("I;16"):
        (bits,) = image.tag_v2[TiffImagePlugin.BITSPERSAMPLE]
        if bits != 16:  # Pillow leaves them as they are, so the photo would be dark
            raise UnusableError(f"pixels of {bits} bits", failure=True)


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile:
        image = _apply_profile(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Returns an image converted from its colour profile to sRGB.

    If the profile is broken, or is for another kind of pixels, the values stay as they are. Image
    viewers do the same.
    """
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    assert converted is not None
    return converted
