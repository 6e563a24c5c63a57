"""Processes that hold a lease, for tests of those who meet one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.clock import TurnedClock
from tests.support.processes import FORK, inherit


class Hasty(TurnedClock):
    """A wait lasts only for a moment, so that a holder renews its lease all the time."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(0.02)


@contextmanager
def holder(hold: Callable[[Any, Any], None], place: object) -> Iterator[Any]:
    """Gives a process that holds a lease, and kills it in the end.

    Args:
        hold: a function of a module; it takes `place` and an event, sets the event once it holds
            the lease, and stays.
    """
    held = FORK.Event()
    process = FORK.Process(target=inherit(hold), args=(place, held))
    process.start()
    try:
        assert held.wait(120)
        yield process
    finally:
        process.kill()
        process.join()
