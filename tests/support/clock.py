"""A clock that tests turn, so that budgets, leases and timeouts cost them no time."""

import threading

from pipelines.storage.clock import Clock


class TurnedClock(Clock):
    """It starts at 0 s. A sleep turns it and returns at once; a `wait` lasts until it is turned."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["TurnedClock"], tuple[()]]:
        """Another process has a clock of its own."""
        return TurnedClock, ()

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.turn(seconds)

    def turn(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        due = self._now + seconds
        while not event.wait(0.001):
            if self._now >= due:
                return False
        return True


class LongPauses(TurnedClock):
    """Each pause takes longer than anybody waits for a server that may not exist."""

    def sleep(self, seconds: float) -> None:
        super().sleep(20 + seconds)
