"""Where photos come from: the embedded sample set or a folder. Every photo is checked up front."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.errors import UserError
from pipelines.storage import resolve

SAMPLE = Path(__file__).parent / "sample"
EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Photo:
    """A source photo: `name` is its path inside the source, with forward slashes; `side` is its
    shorter side in pixels."""

    path: Path
    name: str
    sha256: str
    side: int


def find_photos(source: str) -> list[Photo]:
    """The photos of a source, ordered by name, duplicates by content left out.

    Raises:
        UserError: the source does not exist, holds no photo, or holds a file that is none.
    """
    root = SAMPLE if source == "sample" else resolve(source)
    if not root.is_dir():
        raise UserError(f"source '{source}' is not a folder ({root}): give a folder, or 'sample'.")
    paths = sorted(
        path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in EXTENSIONS
    )
    if not paths:
        raise UserError(
            f"source '{source}' holds no photo ({root}): expected files ending in "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    photos: dict[str, Photo] = {}
    for path in paths:
        data = path.read_bytes()
        side = _shorter_side(path, data)
        sha256 = hashlib.sha256(data).hexdigest()
        name = path.relative_to(root).as_posix()
        photos.setdefault(sha256, Photo(path, name, sha256, side))
    return list(photos.values())


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A photo as `[H, W, 3]` uint8 RGB, EXIF rotation applied.

    Raises:
        UserError: the file cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a photo: {error}.") from None


def _shorter_side(path: Path, data: bytes) -> int:
    """Also refuses what is no image."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.verify()
            return min(image.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"{path} is not a readable photo ({reason}): remove it from the source."
        ) from None
