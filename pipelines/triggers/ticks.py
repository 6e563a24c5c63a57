"""Tells whether a schedule's tick comes too late: a machine was off, or a scheduler catches up."""

import re
from datetime import UTC, datetime

from pipelines.config.durations import seconds
from pipelines.config.wording import shown
from pipelines.errors import UserError
from pipelines.storage.clock import utc

_DAY_S = 86_400.0


def skipped(tick: str, max_delay: str, now: float) -> str | None:
    """Returns in words why a tick is skipped; None if it comes in time.

    Args:
        tick: the time that the schedule meant: `02:00`, in UTC on each day, or a date and a time as
            in ISO 8601, such as 2026-11-29T02:00:00Z (in UTC, unless it names another zone).
        max_delay: the longest delay, as `3h` or `1d`.
        now: the time, in seconds since 1970.

    Raises:
        UserError: one of the two has another form.
    """
    longest = seconds("--max-delay", max_delay)
    meant = _meant(tick, now)
    if now - meant <= longest:
        return None
    late = (now - meant) / 3600
    return (
        f"the tick of {utc(meant)} comes {late:.1f} hours late (--max-delay {max_delay}): skipped"
    )


def _meant(tick: str, now: float) -> float:
    """Returns the time of a tick, in seconds since 1970; the last one of a daily tick."""
    daily = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", tick)
    if daily:
        return now - (now - int(daily[1]) * 3600 - int(daily[2]) * 60) % _DAY_S
    try:
        meant = datetime.fromisoformat(tick)
        return (meant if meant.tzinfo else meant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UserError(
            f"--tick is {shown(tick)}: write the time of the schedule in UTC, such as 02:00 or "
            "2026-11-29T02:00:00Z."
        ) from None
