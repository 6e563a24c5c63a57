"""Times the parts of training steps: a bare loop's, or the runtime's from outside."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

from torch import Tensor

ALL, CPU_TIME = "all", "CPU"
# Neither the first step, which allocates, nor the last, which waits for its checkpoint.
STEADY = slice(1, -1)


@dataclass
class Stopwatch:
    """Seconds by part of a step, for each step: ALL of it, and CPU, what all threads of the process
    computed meanwhile, which other programs disturb less. The losses, too."""

    steps: list[dict[str, float]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    _parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _since: float = field(default_factory=perf_counter)
    _cpu_since: float = field(default_factory=process_time)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self._parts[name] += perf_counter() - start

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*arguments, **named)

        return run

    def step_done(self, loss: Tensor, **parts: float) -> None:
        now, cpu_now = perf_counter(), process_time()
        self.losses.append(loss.detach())
        whole = {ALL: now - self._since, CPU_TIME: cpu_now - self._cpu_since}
        self.steps.append(self._parts | parts | whole)
        self._parts.clear()
        self._since, self._cpu_since = now, cpu_now

    @property
    def parts(self) -> list[str]:
        """Their names, in the order of a step."""
        seen = dict.fromkeys(name for step in self.steps for name in step)
        return [name for name in seen if name not in (ALL, CPU_TIME)]

    def mean(self, name: str = ALL) -> float:
        """Seconds of a part per step, checkpoints included."""
        return statistics.fmean(step.get(name, 0.0) for step in self.steps[STEADY])

    @property
    def rest(self) -> float:
        """Seconds per step outside all parts."""
        return self.mean() - sum(map(self.mean, self.parts))

    @property
    def median(self) -> float:
        """Seconds of the median step: one without a checkpoint."""
        return statistics.median(step[ALL] for step in self.steps[STEADY])
