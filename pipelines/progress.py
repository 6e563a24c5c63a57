"""Shows progress: a bar that is redrawn on a terminal, a line every few seconds in a log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from pipelines.errors import printable

BAR = (
    "{desc} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left{postfix}"
)


class _Lines:
    """A stream for tqdm that prints every redrawn bar as a line of its own."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def flush(self) -> None:
        sys.stdout.flush()


def _is_unicode(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").startswith("utf")


@contextmanager
def progress(label: str, *, total: int, unit: str, initial: int = 0) -> Iterator[Any]:
    """Yields a tqdm bar for `total` units, of which `initial` are done; it ends with the block."""
    terminal = sys.stdout.isatty()
    bar = tqdm(
        desc=printable(label),
        total=total,
        initial=initial,
        unit=unit,
        bar_format=BAR,
        file=sys.stdout if terminal else _Lines(),
        mininterval=0.2 if terminal else 4.0,
        # Without this, tqdm's own monitor thread redraws a bar that has not moved.
        miniters=1,
        dynamic_ncols=False,
        ncols=None if terminal else 120,
        ascii=not _is_unicode(sys.stdout.encoding),
    )
    try:
        yield bar
    finally:
        bar.close()
