"""What a method costs: parameters, multiply-adds, bytes, and time and memory on this machine."""

import copy
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.evaluation.memory import peak_bytes
from pipelines.evaluation.methods import Method
from pipelines.progress import progress
from pipelines.training.cost import CPU_ATTENTION


@dataclass(frozen=True)
class Latency:
    """Wall time for a square LR image of `size` px, whole or in tiles as the method has it.

    Attributes:
        peak_bytes: of memory beyond weights, see `memory.peak_bytes`.
    """

    size: int
    median_ms: float
    low_ms: float
    high_ms: float
    runs: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Cost:
    """None is not known.

    Attributes:
        gmacs: multiply-adds for an LR image of the first size, 10⁹.
        file_bytes: of the weights as they are shipped.
    """

    parameters: int | None
    gmacs: float | None
    file_bytes: int | None
    latencies: list[Latency]


def threads() -> int:
    """Cores that this process may use, which is how many threads are timed."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """The processor, for people."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    count = threads()
    return f"{names[0] if names else platform.machine()}, {count} thread{'s' * (count > 1)}"


def measure_costs(methods: Sequence[Method], sizes: Sequence[int], runs: int) -> dict[str, Cost]:
    """Of each method, by reference. The methods take turns, so that a slow moment of the machine
    meets all of them; the interval holds the middle nine tenths of the runs."""
    timed = [copy.copy(method) for method in methods]
    for method in timed:
        method.threads = threads()
    times: dict[tuple[str, int], list[float]] = {(m.reference, s): [] for m in timed for s in sizes}
    peaks: dict[tuple[str, int], int | None] = {}
    total = len(timed) * len(sizes) * (runs + 2)
    with _all_threads(), progress("latency", total=total, unit="run") as bar:
        for size in sizes:
            image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
            for _ in range(runs + 1):
                for method in timed:
                    start = perf_counter()
                    method(image)
                    times[method.reference, size].append(1000 * (perf_counter() - start))
                    bar.update(1)
            for method in timed:
                peaks[method.reference, size] = peak_bytes(partial(method, image))
                bar.update(1)
        gmacs = {m.reference: _gmacs(m, sizes[0]) if sizes else None for m in timed}
    return {
        method.reference: Cost(
            method.parameters,
            gmacs[method.reference],
            method.file_bytes,
            # The first run warms up.
            [
                _latency(size, times[method.reference, size][1:], peaks[method.reference, size])
                for size in sizes
            ],
        )
        for method in methods
    }


def _latency(size: int, times: Sequence[float], peak: int | None) -> Latency:
    low, high = (round(float(value), 3) for value in np.quantile(times, (0.05, 0.95)))
    return Latency(size, round(statistics.median(times), 3), low, high, len(times), peak)


def _gmacs(method: Method, size: int) -> float | None:
    """Counted while it runs, tiles and all; None for what PyTorch does not run."""
    if method.parameters is None:
        return None
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        method(np.zeros((size, size, 3), np.uint8))
    return counter.get_total_flops() / 2e9


@contextmanager
def _all_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
