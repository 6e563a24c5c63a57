"""Notices from outside that this run should save itself: a node that will go, a wish to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum


class Notice(IntEnum):
    """What a rank was told; the strongest of all ranks counts."""

    NONE = 0
    #: A node will be taken away soon: write a checkpoint, and go on until it happens.
    PREEMPTION = 1
    #: Write a checkpoint and end.
    STOP = 2


@contextmanager
def on_sigterm(action: Callable[[], object] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Inside the block, SIGTERM calls `action` and kills nothing. Yields whether it came. In the
    main thread only, as signals are."""
    came = False

    def handle(number: int, frame: object) -> None:
        nonlocal came
        came = True
        action()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
