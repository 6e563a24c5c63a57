"""Notices from outside that a run must save its work: a node will go, or somebody stops it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum


class Notice(IntEnum):
    """A notice to a rank; the strongest one of all ranks counts."""

    NONE = 0
    #: A node will be taken away soon: write a checkpoint, and go on until it happens.
    PREEMPTION = 1
    #: Write a checkpoint and end.
    STOP = 2


@contextmanager
def on_sigterm(action: Callable[[], object] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Lets SIGTERM call `action` inside the block, instead of ending the process.

    Yields a function that tells whether SIGTERM came. Only the main thread may use it.
    """
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
