"""A tick is skipped if it comes later than it may."""

import calendar
import time

import pytest

from pipelines.triggers.ticks import skipped


def at(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M"))


@pytest.mark.parametrize(
    ("tick", "now", "late"),
    [
        ("02:00", "2026-11-29T02:00", None),
        ("02:00", "2026-11-29T05:00", None),
        ("02:00", "2026-11-29T05:01", "3.0"),
        ("02:00", "2026-11-29T09:30", "7.5"),
        # Yesterday's.
        ("23:30", "2026-11-29T01:00", None),
        ("23:30", "2026-11-29T04:00", "4.5"),
        ("2026-11-28T02:00:00Z", "2026-11-29T02:00", "24.0"),
        ("2026-11-29T02:00:00+02:00", "2026-11-29T03:30", "3.5"),
        ("2026-11-29T02:00", "2026-11-29T04:00", None),
        # The clocks of two machines differ a little.
        ("2026-11-29T02:00:00Z", "2026-11-29T01:59", None),
    ],
)
def test_a_tick_is_late_by_its_delay(tick: str, now: str, late: str | None) -> None:
    told = skipped(tick, "3h", at(now))
    if late is None:
        assert told is None
    else:
        assert told is not None
        assert f"comes {late} hours late (--max-delay 3h)" in told


def test_the_tick_is_told_in_utc() -> None:
    told = skipped("23:30", "1h", at("2026-11-29T04:00"))
    assert told is not None
    assert told.startswith("the tick of 2026-11-28T23:30:00Z comes")
