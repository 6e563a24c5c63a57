"""Reads the photos that the command line names, and writes them upscaled."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from pipelines.data.image_files import check_fits, write_picture
from pipelines.data.images import TooManyPixelsError, UnusableError, open_photo
from pipelines.errors import UserError
from pipelines.progress import progress
from pipelines.storage.files import local_files, open_regular, whole_file
from srmodels.tiling import Tiling
from srmodels.upscale import kept_profile, num_tiles, upscale_bands


@dataclass(frozen=True)
class Task:
    """A photo to read, and the file to write."""

    source: Path
    target: Path


def upscale_file(
    run: Callable[[Tensor], Tensor],
    scale: int,
    task: Task,
    tiling: Tiling,
    *,
    max_megapixels: float,
    **options: Any,
) -> tuple[int, int]:
    """Upscales one photo with a progress bar over its tiles; the file appears whole.

    Args:
        run: maps LR tiles `[B, 3, h, w]` to HR tiles, both in [0, 1].
        max_megapixels: larger photos are refused.
        options: further arguments of `upscale_bands`.

    Returns:
        width and height of the result, pixels.

    Raises:
        UserError: the photo cannot be read, or the format cannot hold its size or transparency.
    """
    image = _open(task.source, max_megapixels)
    size = (image.width * scale, image.height * scale)
    check_fits(task.source, size, image.has_transparency_data, task.target)
    total = num_tiles(image, tiling)
    with (
        whole_file(task.target) as temporary,
        progress(task.source.name, total=total, unit="tile") as bar,
    ):
        bands = upscale_bands(
            run,
            image,
            scale=scale,
            tiling=tiling,
            scratch=temporary.parent,
            on_tile=bar.update,
            **options,
        )
        write_picture(temporary, task.target.suffix.lower(), size, bands, kept_profile(image))
    return size


def _open(source: Path, max_megapixels: float) -> Image.Image:
    def note(text: str) -> None:
        print(f"note: {source}: {text}.", file=sys.stderr)

    with opened(source, max_megapixels) as file:
        return open_photo(file, max_megapixels, on_note=note)


@contextmanager
def opened(source: Path, max_megapixels: float) -> Iterator[BinaryIO]:
    """Gives a photo's file, to be decoded in the block.

    Raises:
        UserError: the file cannot be read, or the block finds no photo in it.
    """
    with local_files(source), open_regular(source) as file:
        try:
            yield file
        except TooManyPixelsError as error:
            raise UserError(
                f"{source} has {error.megapixels:.0f} megapixels, and {max_megapixels:g} are the "
                "limit: raise --max-megapixels if you trust the file."
            ) from None
        except UnusableError as error:
            raise UserError(
                f"{source} cannot be read as a photo ({error.reason}): give another file."
            ) from None
