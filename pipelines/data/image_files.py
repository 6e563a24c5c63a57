"""Writes pictures band by band, so that a picture need not fit into memory.

Pillow encodes whole pictures only. Rows of a PNG can be encoded apart from each other; for JPEG and
WebP, Pillow reads the pixels from a temporary file that the kernel maps.
"""

import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from pipelines.errors import UserError, listing


@dataclass(frozen=True)
class Format:
    """A file format: Pillow's name, how it is written, and its largest side in pixels."""

    name: str
    options: dict[str, object]
    max_side: int


_JPEG = Format("JPEG", {"quality": 95, "subsampling": 0}, 65500)
#: Formats that can be written, by suffix.
FORMATS = {
    ".png": Format("PNG", {}, 2**31 - 1),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format("WEBP", {"quality": 95}, 16383),
}
#: Modes of bands as Pillow can read them from a mapped file, which holds no pixels of 3 bytes.
_MAPPED_MODES = {"L": "L", "RGB": "RGBX", "RGBA": "RGBA", "LA": "RGBA"}


def check_fits(source: Path, size: tuple[int, int], transparent: bool, target: Path) -> None:
    """Raises a UserError if the format of `target` cannot hold the picture made of `source`.

    Args:
        size: width and height of the picture, pixels.
        target: a file with a suffix of FORMATS.
    """
    wanted = FORMATS[target.suffix.lower()]
    if transparent and wanted.name == "JPEG":
        raise UserError(f"{source} has transparency, which JPEG cannot hold: write .png or .webp.")
    if max(size) <= wanted.max_side:
        return
    others = [
        suffix
        for suffix, other in FORMATS.items()
        if max(size) <= other.max_side and not (transparent and other.name == "JPEG")
    ]
    raise UserError(
        f"{source} would become {size[0]}x{size[1]} px, but {wanted.name} ends at "
        f"{wanted.max_side} px: write {listing(others, ' or ')}."
    )


def write_picture(
    path: Path,
    suffix: str,
    size: tuple[int, int],
    bands: Iterator[Image.Image],
    profile: bytes | None,
) -> None:
    """Writes a picture that comes in bands from top to bottom.

    Args:
        path: the file to write; temporary files appear beside it.
        suffix: the format, a key of FORMATS.
        size: width and height of the picture, pixels.
        bands: images of this width, all of one mode: L, LA, RGB or RGBA.
        profile: the colour profile to embed.

    Raises:
        OSError: the file system refuses.
    """
    if FORMATS[suffix].name == "PNG":
        with path.open("wb") as file:
            _write_png(file, size, bands, profile)
    else:
        _write_mapped(path, FORMATS[suffix], size, bands, profile)


def _write_png(
    file: IO[bytes], size: tuple[int, int], bands: Iterator[Image.Image], profile: bytes | None
) -> None:
    """Lets Pillow filter the rows of each band, and compresses the rows of all bands as one
    stream."""
    compressor = zlib.compressobj(strategy=zlib.Z_FILTERED)
    above = None
    for band in bands:
        chunks = _chunks(_with_row_above(band, above), profile)
        rows = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
        if above is None:
            file.write(b"\x89PNG\r\n\x1a\n")
            for kind, data in chunks[: [kind for kind, _ in chunks].index(b"IDAT")]:
                height = size[1].to_bytes(4)
                _write_chunk(file, kind, data[:4] + height + data[8:] if kind == b"IHDR" else data)
        else:
            rows = rows[len(rows) // (band.height + 1) :]
        if packed := compressor.compress(rows):
            _write_chunk(file, b"IDAT", packed)
        above = band.crop((0, band.height - 1, band.width, band.height))
    _write_chunk(file, b"IDAT", compressor.flush())
    _write_chunk(file, b"IEND", b"")


def _with_row_above(band: Image.Image, above: Image.Image | None) -> Image.Image:
    """Puts the row above on a band, since PNG's filters look at it."""
    if above is None:
        return band
    joined = Image.new(band.mode, (band.width, band.height + 1))
    joined.paste(above, (0, 0))
    joined.paste(band, (0, 1))
    return joined


def _chunks(image: Image.Image, profile: bytes | None) -> list[tuple[bytes, bytes]]:
    """Returns kind and data of the chunks of a PNG of the image, uncompressed."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=0, icc_profile=profile)
    buffer.seek(8)
    chunks = []
    while head := buffer.read(8):
        chunks.append((head[4:], buffer.read(int.from_bytes(head[:4]))))
        buffer.seek(4, 1)
    return chunks


def _write_chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    for part in (len(data).to_bytes(4), kind, data, checksum.to_bytes(4)):
        file.write(part)


def _write_mapped(
    path: Path,
    target: Format,
    size: tuple[int, int],
    bands: Iterator[Image.Image],
    profile: bytes | None,
) -> None:
    """Lets Pillow encode the picture from a file of its pixels."""
    with tempfile.TemporaryFile(dir=path.parent) as pixels:
        for band in bands:
            mode = _MAPPED_MODES[band.mode]
            pixels.write(band.convert(mode).tobytes())
        pixels.flush()
        mapped = np.memmap(pixels, np.uint8, mode="r")
        picture = Image.frombuffer(mode, size, mapped, "raw", mode, 0, 1)
        picture.save(path, target.name, icc_profile=profile, **target.options)
