"""Times calls by turns, and watches the main memory that they take at their peak."""

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
    """Wall time for a square LR image of `size` px on this machine's CPU.

    Attributes:
        median_ms: of the runs.
        low_ms, high_ms: ends of the interval that holds the middle nine tenths of the runs.
        threads: that the runs could use.
        peak_bytes: of memory beyond weights, see `peak_bytes`; None where it was not measured.
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
        """Sums up the times of the runs, in milliseconds."""
        low, high = (round(float(value), 3) for value in np.quantile(times, (0.05, 0.95)))
        median = round(statistics.median(times), 3)
        return cls(size, median, low, high, len(times), threads, peak)


def num_threads() -> int:
    """Returns how many cores this process may use, which is how many threads are timed."""
    return len(os.sched_getaffinity(0))


def time_by_turns(
    calls: Mapping[str, Callable[[], object]],
    runs: int,
    *,
    warm_up: int = 1,
    on_run: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Returns the times of `runs` runs of each call, in milliseconds, by name.

    The calls take turns, so that a slow moment of the machine meets all of them.

    Args:
        warm_up: runs of each before those that count.
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
    """Returns the most that a call takes of main memory, by the kernel's own high-water mark.

    What this process holds before does not count: neither weights that are loaded already, nor
    what libraries keep from an earlier run. None where the kernel does not tell (not on Linux).
    """
    gc.collect()
    try:
        # What was freed, but kept for later, would hide what the call takes.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")
        _, before = _status("VmHWM"), _status("VmRSS")
    except (OSError, AttributeError, ValueError):
        return None
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """Raises OSError or ValueError where the kernel does not say."""
    lines = (_PROCESS / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
