"""Counts the cost of a retraining, and stops its training at a checkpoint when it is spent."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.config.retrain import RetrainConfig
from pipelines.errors import BudgetSpentError
from pipelines.retrain.history import Cost, hours
from pipelines.storage.clock import Clock
from pipelines.training.preemption import Meter

_HOUR_S = 3600.0
#: The longest time between two looks at the budget: no system waits for years.
_LOOK_S = 600.0


class Budget(Meter):
    """The hours of a retraining, from when this is made.

    Only training is stopped: what is trained is measured, exported and registered in any case.

    Args:
        before: what earlier starts of the same `run.name` took.
    """

    def __init__(self, limits: RetrainConfig, before: Cost, clock: Clock = Clock()) -> None:
        self._limits, self._before, self._clock = limits, before, clock
        self._began = clock.now()
        self._trained = Cost()
        #: The beginning of the training that runs, and the GPUs and the cores that it holds.
        self._now: tuple[float, int, int] | None = None
        self._lock = threading.Lock()

    @property
    def cost(self) -> Cost:
        """The hours that this start has taken until now."""
        with self._lock:
            now, trained = self._clock.now(), self._trained
            if self._now is not None:
                trained += _used(now, *self._now)
        return trained + Cost(wall_hours=(now - self._began) / _HOUR_S)

    @property
    def spent(self) -> str | None:
        """The limit that is reached, in words; None if none is."""
        for name, limit, used in self._each():
            if used >= limit:
                return f"retrain.{name}={limit:g} is spent ({hours(used)} hours)"
        return None

    def admit(self, run: str) -> None:
        """Refuses to train a run if the budget is spent.

        Raises:
            BudgetSpentError: it is.
        """
        if self.spent:
            raise self.error(f"{run} was not trained any further")

    def error(self, saved: str) -> BudgetSpentError:
        """Returns the error for a training that the budget ended.

        Args:
            saved: says in words what is saved.
        """
        return BudgetSpentError(
            f"{self.spent}, and {saved}: start it again with a larger budget to go on."
        )

    @contextmanager
    def training(self, gpus: int, cpus: int, stop: Callable[[], object]) -> Iterator[None]:
        """Counts a training, and stops it when the budget is spent; see `Meter`."""
        with self._lock:
            self._now = self._clock.now(), gpus, cpus
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(gpus, ended, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with self._lock:
                self._trained += _used(self._clock.now(), *self._now)
                self._now = None

    def _watch(self, gpus: int, ended: threading.Event, stop: Callable[[], object]) -> None:
        while (left := self._left_s(gpus)) is not None:
            if left <= 0:
                stop()
                return
            if self._clock.wait(ended, min(left, _LOOK_S)):
                return

    def _left_s(self, gpus: int) -> float | None:
        """Returns the seconds until a limit is reached with so many GPUs; None without a limit."""
        rates = {"max_hours": 1, "max_gpu_hours": gpus}
        left = [
            (limit - used) / rates[name] for name, limit, used in self._each() if rates[name] > 0
        ]
        return min(left) * _HOUR_S if left else None

    def _each(self) -> Iterator[tuple[str, float, float]]:
        """Yields each limit: its key, and the hours that are allowed and used."""
        used = self._before + self.cost
        for name, hours_used in (
            ("max_hours", used.wall_hours),
            ("max_gpu_hours", used.gpu_hours),
        ):
            limit = getattr(self._limits, name)
            if limit is not None:
                yield name, limit, hours_used


def _used(now: float, since: float, gpus: int, cpus: int) -> Cost:
    spent = (now - since) / _HOUR_S
    return Cost(gpu_hours=spent * gpus, cpu_hours=spent * cpus)
