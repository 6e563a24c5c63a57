"""Repeats operations that fail on a network: how often, for how long, and what is logged."""

import logging
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.errors import UserError, redacted
from pipelines.storage.clock import Clock

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
_counting = threading.Lock()
_failures = 0


def failures() -> int:
    """Returns the number of attempts on a network that failed in this process."""
    return _failures


def count_failure() -> None:
    """Counts an attempt on a network that failed."""
    global _failures  # noqa: PLW0603  (of the process, whatever fails in it)
    with _counting:
        _failures += 1


@dataclass(frozen=True)
class RetryPolicy:
    """The limits on waiting for a network, in seconds.

    Attributes:
        budget_s: the longest time without a byte of progress.
        first_s: the longest time for a server that has not answered yet: its address may be wrong.
        busy_s: the longest time for one that has only said so far that it is busy, or took a
            request and was silent: a proxy may have said so in its place.
        timeout_s: the longest time for one answer.
        first_delay_s: the longest pause before the first repetition; each failure doubles it.
        max_delay_s: the longest pause of all.
        clock: tells the time, and pauses.
    """

    budget_s: float = 600.0
    first_s: float = 10.0
    busy_s: float = 120.0
    timeout_s: float = 60.0
    first_delay_s: float = 0.2
    max_delay_s: float = 20.0
    clock: Clock = field(default=Clock(), repr=False, compare=False)

    @property
    def answer_s(self) -> float:
        """The longest time for one answer, never more than the budget."""
        return min(self.timeout_s, self.budget_s)


class Retries:
    """The repetitions of one operation; the threads of the operation share them.

    The pauses follow exponential backoff with full jitter. Each call of `progress` restores the
    whole budget.

    Args:
        what: the operation in words, such as "read s3://bucket/name".
        known: says whether the server has answered before. Until then `first_s` or `busy_s` is the
            budget.
    """

    def __init__(
        self, policy: RetryPolicy, what: str, known: Callable[[], bool] = lambda: True
    ) -> None:
        self._policy = policy
        self._what = what
        self._known = known
        self._busy = False
        # Its own generator: forked processes share the global one's state and would retry in step.
        self._random = random.Random()
        self._logged = -math.inf
        self.progress()

    def progress(self) -> None:
        """Restores the whole budget, since bytes have come through."""
        self._since = self._policy.clock.now()
        self._failures = 0

    def failed(self, error: Exception, *, busy: bool = False) -> None:
        """Waits until the next attempt is due.

        Args:
            busy: True if the server has said that it is busy, or took the request and was silent.

        Raises:
            UserError: the budget is spent.
        """
        count_failure()
        now = self._policy.clock.now()
        self._busy |= busy
        budget = self._policy.budget_s
        if not self._known():
            unknown = self._policy.busy_s if self._busy else self._policy.first_s
            budget = min(budget, unknown)
        left = budget - (now - self._since)
        told = redacted(" ".join(str(error).split()) or type(error).__name__)
        if left <= 0:
            raise UserError(
                f"could not {self._what}: nothing came through for {now - self._since:.0f} s, and "
                f"the last error was '{told}'; check the network and the server, and start again."
            ) from error
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            what = redacted(self._what)
            log.warning("could not %s (%s); trying for %.0f s more", what, told, left)
        longest = min(self._policy.max_delay_s, self._policy.first_delay_s * 2**self._failures)
        self._failures = min(self._failures + 1, 30)
        self._policy.clock.sleep(min(left, self._random.uniform(0, longest)))
