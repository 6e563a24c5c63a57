"""Tells the time to budgets, leases and timeouts, so that a test can turn the clock itself."""

import threading
import time


class Clock:
    """The machine's monotonic clock, in seconds since an arbitrary moment."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Returns True as soon as the event is set, and False after `seconds` without it."""
        return event.wait(seconds)
