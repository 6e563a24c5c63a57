"""Cuts a photo into HR tiles, and encodes them without loss."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.config.schema import ShardConfig

#: Lossless WebP decodes as fast as the fastest PNG, at three quarters of its size.
#: docs/benchmarks.md compares the codecs.
EXTENSION = "webp"


@dataclass(frozen=True)
class Tile:
    """An encoded HR tile, ready for a shard."""

    key: str
    image: bytes
    meta: dict[str, Any]


def tile_size(settings: ShardConfig, split: str) -> int:
    """Returns the side of the tiles of `train` or `val`, in HR pixels."""
    return settings.val_tile if split == "val" else settings.tile


def cut(height: int, width: int, size: int, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Yields the top-left corners (y, x) of evenly spread tiles that cover an image.

    Neighbouring tiles share at least `overlap` pixels. An image smaller than a tile gives none.
    """
    if height < size or width < size:
        return
    for y in _starts(height, size, overlap):
        for x in _starts(width, size, overlap):
            yield y, x


def _starts(length: int, size: int, overlap: int) -> list[int]:
    count = -(-(length - overlap) // (size - overlap))
    return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]


def encode_tiles(
    image: NDArray[np.uint8], sha256: str, name: str, settings: ShardConfig, split: str
) -> Iterator[Tile]:
    """Yields the tiles of a photo, row by row; leaves near-flat ones out of training.

    A key consists of the photo's sha256 and the tile's number. So keys hold no dots and do not
    depend on names. A tile that is left out keeps its number.

    Args:
        image: the photo, `[H, W, 3]` uint8 RGB.
    """
    size = tile_size(settings, split)
    overlap = settings.overlap if split == "train" else 0
    height, width = image.shape[:2]
    for number, (y, x) in enumerate(cut(height, width, size, overlap)):
        tile = image[y : y + size, x : x + size]
        if split == "train" and contrast(tile) < settings.min_contrast:
            continue
        encoded = encode(tile, settings.effort)
        yield Tile(
            key=f"{sha256[:16]}-{number:04d}",
            image=encoded,
            meta={
                "source": name,
                "sha256": sha256,
                "box": [x, y, x + size, y + size],
                "photo_size": [width, height],
                "digest": hashlib.sha256(encoded).hexdigest(),
            },
        )


def contrast(tile: NDArray[np.uint8]) -> float:
    """Returns the standard deviation of luma of `[H, W, 3]` uint8 RGB, in 8-bit levels."""
    gray = cv2.cvtColor(np.ascontiguousarray(tile), cv2.COLOR_RGB2GRAY)
    return float(cv2.meanStdDev(gray)[1][0, 0])


def encode(tile: NDArray[np.uint8], effort: int) -> bytes:
    """Encodes `[H, W, 3]` uint8 RGB as lossless WebP; `effort` 0 is fast, 6 makes small files."""
    buffer = BytesIO()
    # For lossless WebP, quality is another effort. More than 20 takes time and saves little.
    Image.fromarray(tile).save(buffer, "WEBP", lossless=True, quality=20, method=effort)
    return buffer.getvalue()


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decodes a tile's bytes to `[H, W, 3]` uint8 RGB.

    Raises:
        ValueError: they are no image.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ValueError(str(error)) from None
    if image is None:
        raise ValueError("no image")
    return np.asarray(image, dtype=np.uint8)
