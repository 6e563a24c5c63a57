"""Times calls that take turns, and measures the peak of the main memory that a call takes."""

import ctypes
import gc
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Latency:
    """The wall time for a square LR image of `size` px on this machine's CPU.

    Attributes:
        median_ms: median of the runs.
        low_ms, high_ms: their 5th and 95th percentile.
        runs: number of runs.
        threads: number of threads that the runs could use.
        peak_bytes: memory beyond the weights, see `peak_bytes`; None where it was not measured.
    """

    size: int
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    threads: int
    peak_bytes: int | None = None

    @classmethod
    def of(
        cls, size: int, times: Sequence[float], threads: int, peak: int | None = None
    ) -> "Latency":
        """Summarises the times of the runs, in milliseconds."""
        low, high = (round(float(value), 3) for value in np.quantile(times, (0.05, 0.95)))
        median = round(statistics.median(times), 3)
        return cls(size, median, low, high, len(times), threads, peak)


def num_threads() -> int:
    """Returns the number of cores that this process may use: so many threads are timed."""
    return len(os.sched_getaffinity(0))


def time_by_turns(
    calls: Mapping[str, Callable[[], object]],
    runs: int,
    *,
    warm_up: int = 1,
    on_run: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Runs each call `runs` times, and returns its times in milliseconds, by name.

    The calls take turns, so that a slow moment of the machine affects all of them.

    Args:
        warm_up: number of runs of each call that do not count, before the others.
        on_run: called after each run.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warm_up + runs):
        for name, call in calls.items():
            start = perf_counter()
            call()
            times[name].append(1000 * (perf_counter() - start))
            on_run()
    return {name: found[warm_up:] for name, found in times.items()}


def peak_bytes(call: Callable[[], object]) -> int | None:
    """Returns the peak of the main memory that a call takes, as the kernel measures it, in bytes.

    The memory that the process holds before the call does not count, such as loaded weights.

    Returns:
        None where the kernel does not tell, as on systems other than Linux.
    """
    gc.collect()
    try:
        # The allocator keeps freed memory. The call could use it, and its peak would look smaller.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")
        _, before = _status("VmHWM"), _status("VmRSS")
    except (OSError, AttributeError, ValueError):
        return None
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """Returns a value of /proc/self/status in bytes.

    Raises:
        OSError, ValueError: the kernel does not tell it.
    """
    lines = (_PROCESS / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
