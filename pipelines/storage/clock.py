"""Tells the time to budgets, leases and timeouts, so that a test can turn the clock itself."""

import calendar
import threading
import time

_UTC = "%Y-%m-%dT%H:%M:%SZ"


def utc(seconds: float) -> str:
    """Returns a time, in seconds since 1970, in UTC: as 2026-11-29T08:00:00Z."""
    return time.strftime(_UTC, time.gmtime(seconds))


def from_utc(text: str) -> float:
    """Returns the time that `utc` wrote, in seconds since 1970."""
    return float(calendar.timegm(time.strptime(text, _UTC)))


class Clock:
    """The machine's monotonic clock, in seconds since an arbitrary moment."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Returns True as soon as the event is set, and False after `seconds` without it."""
        return event.wait(seconds)
