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


class Meter:
    """Counts what trainings use, and may end them. This one lets them go on, and counts nothing."""

    def admit(self, run: str) -> None:
        """Is asked before the run of this name is trained; raises an error if it must not be."""

    @contextmanager
    def training(self, gpus: int, cpus: int, stop: Callable[[], object]) -> Iterator[None]:
        """Lasts as long as workers train.

        Args:
            gpus: the number of GPUs that the workers hold.
            cpus: the number of CPU cores that they hold.
            stop: asks the training to write a checkpoint and to end. Any thread may call it.
        """
        yield


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
