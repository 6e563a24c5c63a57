"""The pictures of a report: the same part of an image as every method shows it."""

from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from srmodels.metrics import to_y

Pixels = NDArray[np.uint8]
#: Pictures by kind (`LR`, the methods, `HR`), in drawing order.
Pictures = dict[str, Pixels]

#: Side of a picture in HR pixels.
SIZE = 256


def most_detailed(image: Pixels, size: int = SIZE) -> tuple[slice, slice]:
    """Returns the window of `size` px, on a coarse grid, whose luma varies most; all of a smaller
    image."""
    y = to_y(image)
    step = size // 4
    windows = [
        (slice(top, top + size), slice(left, left + size))
        for top in range(0, max(y.shape[0] - size, 0) + 1, step)
        for left in range(0, max(y.shape[1] - size, 0) + 1, step)
    ]
    return max(windows, key=lambda window: float(y[window].std()))


def enlarge(lr: Pixels, scale: int, resampling: Image.Resampling) -> Pixels:
    """Returns the image `[scale·h, scale·w, 3]` of `[h, w, 3]`, by interpolation."""
    size = (lr.shape[1] * scale, lr.shape[0] * scale)
    return np.asarray(Image.fromarray(lr).resize(size, resampling))


def encode(image: Pixels, kind: Literal["PNG", "WEBP"]) -> bytes:
    """Returns the bytes of a lossless file."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def montage(pictures: Pictures) -> Pixels:
    """Returns pictures of one size side by side, each with its name below."""
    height, width = next(iter(pictures.values())).shape[:2]
    gap, caption = 6, 22
    sheet = Image.new("RGB", ((width + gap) * len(pictures) - gap, height + caption), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (name, image) in enumerate(pictures.items()):
        left = number * (width + gap)
        sheet.paste(Image.fromarray(image), (left, 0))
        pen.text((left + width // 2, height + caption // 2), name, "black", font, anchor="mm")
    return np.asarray(sheet)


def stack(sheets: Sequence[Pixels]) -> Pixels:
    """Returns sheets one below the other, narrower ones with white at their right."""
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [
        np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sheets
    ]
    return np.concatenate(padded)
