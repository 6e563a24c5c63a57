"""One photo → lossless HR tiles."""

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

#: Lossless WebP: of the codecs that were measured it decodes as fast as the fastest PNG, at
#: three quarters of its size. docs/benchmarks.md has the comparison.
EXTENSION = "webp"


@dataclass(frozen=True)
class Tile:
    """One encoded HR tile on its way into a shard."""

    key: str
    image: bytes
    meta: dict[str, Any]


def tile_size(settings: ShardConfig, split: str) -> int:
    return settings.val_tile if split == "val" else settings.tile


def cut(height: int, width: int, size: int, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Top-left corners (y, x) of tiles that cover an image, neighbours sharing at least `overlap`
    pixels, evenly spread. Nothing if the image is smaller than a tile."""
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
    """The tiles of a photo `[H, W, 3]` in reading order; near-flat ones are left out of training.

    Keys are made of the photo's sha256 and the tile's number, so they hold no dots and do not
    depend on names; numbers of tiles that are left out are skipped.
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
    """Standard deviation of luma, in 8-bit levels."""
    gray = cv2.cvtColor(np.ascontiguousarray(tile), cv2.COLOR_RGB2GRAY)
    return float(cv2.meanStdDev(gray)[1][0, 0])


def encode(tile: NDArray[np.uint8], effort: int) -> bytes:
    """Lossless WebP of `[H, W, 3]` uint8 RGB; `effort` 0–6 trades time for size."""
    buffer = BytesIO()
    # The quality of a lossless WebP is effort too, and costs more than it brings.
    Image.fromarray(tile).save(buffer, "WEBP", lossless=True, quality=20, method=effort)
    return buffer.getvalue()


def decode(data: bytes) -> NDArray[np.uint8]:
    """A tile `[H, W, 3]` uint8 RGB from its encoded bytes."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None, "a tile with a good checksum is not an image"
    return np.asarray(image, dtype=np.uint8)
