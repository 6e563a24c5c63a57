"""The pictures of a report: the same part of an image as every method shows it."""

from collections.abc import Sequence
from io import BytesIO
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from srmodels.metrics import to_y

Pixels = NDArray[np.uint8]
Places = NDArray[np.int64]
#: Pictures by kind (`LR`, the methods, `HR`), in drawing order.
Pictures = dict[str, Pixels]

#: Side of a picture in HR pixels.
SIZE = 256
#: Largest side in pixels of the overview in which a photo's part is looked for.
_OVERVIEW = 2048


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


def detailed_part(photo: Pixels, side: int) -> tuple[slice, slice]:
    """Returns the window of `side` px whose luma varies most, as an overview of the photo shows it;
    all of a smaller photo."""
    every = -(-max(photo.shape[:2]) // _OVERVIEW)
    found = most_detailed(photo[::every, ::every], max(side // every, 4))
    top, left = (
        max(0, min(window.start * every, length - side))
        for window, length in zip(found, photo.shape[:2], strict=True)
    )
    return slice(top, top + side), slice(left, left + side)


def most_different(
    pictures: Sequence[Pixels], count: int, size: int = SIZE
) -> list[tuple[slice, slice]]:
    """Returns the windows, on a coarse grid, in which two of the pictures are furthest apart.

    Their squared error over RGB decides; of several pairs, the pair with the largest one. The
    windows do not overlap. If all pictures are equal, the most detailed window stands for them.

    Args:
        pictures: two or more `[H, W, 3]` uint8 of one size.
        count: largest number of windows; there are fewer where the pictures differ in fewer.
        size: side of a window in pixels.
    """
    rows, columns = (
        np.arange(0, max(side - size, 0) + 1, size // 4) for side in pictures[0].shape[:2]
    )
    errors = np.zeros((len(rows), len(columns)))
    for first, second in combinations(pictures, 2):
        errors = np.maximum(errors, _squared_errors(first, second, rows, columns, size))
    chosen: list[tuple[int, int]] = []
    for place in np.argsort(-errors, axis=None, kind="stable"):
        row, column = np.unravel_index(place, errors.shape)
        top, left = int(rows[row]), int(columns[column])
        if len(chosen) == count or not errors[row, column]:
            break
        if all(abs(top - y) >= size or abs(left - x) >= size for y, x in chosen):
            chosen.append((top, left))
    windows = [(slice(top, top + size), slice(left, left + size)) for top, left in chosen]
    return windows or [most_detailed(pictures[0], size)]


def _squared_errors(
    first: Pixels, second: Pixels, rows: Places, columns: Places, size: int
) -> NDArray[np.int64]:
    """Returns `[len(rows), len(columns)]` sums of squared errors, of the windows that begin
    there."""
    squared = np.square(first.astype(np.int32) - second).sum(axis=2, dtype=np.int64)
    sums = np.pad(squared.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    below, right = (
        np.minimum(starts + size, length)
        for starts, length in zip((rows, columns), squared.shape, strict=True)
    )
    whole, corner = sums[np.ix_(below, right)], sums[np.ix_(rows, columns)]
    return whole - sums[np.ix_(rows, right)] - sums[np.ix_(below, columns)] + corner


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
