"""Reads the photos that the command line names, and writes them upscaled."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, TypeVar

from PIL import Image
from torch import Tensor

from pipelines.data.image_files import check_fits, write_picture
from pipelines.data.images import TooManyPixelsError, UnusableError, open_photo
from pipelines.errors import UserError, printable
from pipelines.progress import progress
from pipelines.storage.files import local_files, open_regular, whole_file
from srmodels.tiling import Tiling
from srmodels.upscale import kept_profile, num_tiles, upscale_bands

T = TypeVar("T")
#: Bands that are made before they are written: a row of tiles gives about as many.
_AHEAD = 4


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
    ended = Event()

    def run_unless_ended(x_l: Tensor) -> Tensor:
        if ended.is_set():
            raise CancelledError
        return run(x_l)

    with (
        whole_file(task.target) as temporary,
        progress(task.source.name, total=total, unit="tile") as bar,
    ):
        made = upscale_bands(
            run_unless_ended,
            image,
            scale=scale,
            tiling=tiling,
            scratch=temporary.parent,
            on_tile=bar.update,
            **options,
        )
        with closing(made_ahead(made, _AHEAD, ended)) as bands:
            write_picture(temporary, task.target.suffix.lower(), size, bands, kept_profile(image))
    return size


def made_ahead(items: Iterator[T], count: int, ended: Event) -> Generator[T]:
    """Yields the items. While the caller uses one, a thread makes up to `count` further ones.

    Args:
        items: none of them is None.
        ended: is set when no more are asked for; what makes the items may look at it.
    """
    with ThreadPoolExecutor(1) as thread:
        try:
            coming = deque(thread.submit(next, items, None) for _ in range(count))
            while (item := coming.popleft().result()) is not None:
                coming.append(thread.submit(next, items, None))
                yield item
        finally:
            ended.set()
            thread.shutdown(wait=False, cancel_futures=True)


def _open(source: Path, max_megapixels: float) -> Image.Image:
    def note(text: str) -> None:
        print(printable(f"note: {source}: {text}."), file=sys.stderr)

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
