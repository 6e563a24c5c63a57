"""Real photos in the forms in which people hand them in, and images that are no photos."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.sources import SAMPLE

Pixels = NDArray[np.uint8]


def sample(number: int, factor: float = 1.0) -> Pixels:
    """A photo of the sample, `[H, W, 3]`, at a share of its size."""
    with Image.open(sorted(SAMPLE.glob("*.jpg"))[number]) as photo:
        return resized(np.asarray(photo.convert("RGB")), factor)


def opened(path: Path) -> Pixels:
    with Image.open(path) as photo:
        return np.asarray(photo.convert("RGB"))


def resized(pixels: Pixels, factor: float) -> Pixels:
    size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
    how = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), how))


def as_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Returns an image as a JPEG of that quality shows it."""
    return opened_bytes(jpeg_bytes(pixels, quality))


def jpeg_bytes(pixels: Pixels, quality: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def opened_bytes(data: bytes) -> Pixels:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def noise(kind: str, side: int, seed: int = 0) -> Pixels:
    """White noise `[side, side, 3]`: uniform, gaussian, or gray: gaussian in luma alone."""
    generator = np.random.default_rng(seed)
    if kind == "uniform":
        return generator.integers(0, 256, (side, side, 3), np.uint8)
    channels = 1 if kind == "gray" else 3
    drawn = generator.normal(128, 40, (side, side, channels)).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(drawn, (side, side, 3)).copy()


def gradient(kind: str, height: int = 400, width: int = 600) -> Pixels:
    """A smooth image without any detail: across, or around the centre."""
    y, x = np.mgrid[0:height, 0:width]
    level = x / width if kind == "across" else np.hypot(x - width / 2, y - height / 2) / width
    return np.repeat((255 * level).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def with_grain(pixels: Pixels, sigma: float) -> Pixels:
    """A photo with the grain of a film: gaussian noise in luma of about two pixels."""
    drawn = np.random.default_rng(1).normal(0, 1, pixels.shape[:2]).astype(np.float32)
    grain = cv2.GaussianBlur(drawn, (0, 0), 0.6)
    grain *= sigma / grain.std()
    return (pixels + grain[..., None]).clip(0, 255).astype(np.uint8)


def save(pixels: Pixels, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
