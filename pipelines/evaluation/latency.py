"""The costs of a method: parameters, multiply-adds, bytes, and time and memory on this machine."""

import copy
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.evaluation.methods import Method
from pipelines.progress import progress
from srmodels.cost import CPU_ATTENTION
from srmodels.latency import Latency, num_threads, peak_bytes, time_by_turns


@dataclass(frozen=True)
class Cost:
    """The costs of a method. A cost that is not known is None.

    Attributes:
        gmacs: multiply-adds for an LR image of the first size, 10⁹.
        file_bytes: size of the weights as they are shipped.
        latencies: latency of a whole image of each size, in tiles if the method works in tiles.
    """

    parameters: int | None
    gmacs: float | None
    file_bytes: int | None
    latencies: list[Latency]


def machine() -> str:
    """Returns the processor's name and number of threads, for people."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    count = num_threads()
    return f"{names[0] if names else platform.machine()}, {count} thread{'s' * (count > 1)}"


def measure_costs(methods: Sequence[Method], sizes: Sequence[int], runs: int) -> dict[str, Cost]:
    """Returns the costs of each method, by its reference. The methods are timed by turns.

    Args:
        sizes: sides of the square LR images, pixels; none: nothing is timed.
        runs: timed runs of each method and size.
    """
    timed = [copy.copy(method) for method in methods]
    for method in timed:
        method.threads = num_threads()
    latencies: dict[str, list[Latency]] = {method.reference: [] for method in timed}
    total = len(timed) * len(sizes) * (runs + 2)
    with _all_threads(), progress("latency", total=total, unit="run") as bar:
        for size in sizes:
            image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
            calls = {method.reference: partial(method, image) for method in timed}
            times = time_by_turns(calls, runs, on_run=partial(bar.update, 1))
            for name, call in calls.items():
                found = Latency.of(size, times[name], num_threads(), peak_bytes(call))
                latencies[name].append(found)
                bar.update(1)
        gmacs = {m.reference: _gmacs(m, sizes[0]) if sizes else None for m in timed}
    return {
        method.reference: Cost(
            method.parameters,
            gmacs[method.reference],
            method.file_bytes,
            latencies[method.reference],
        )
        for method in methods
    }


def _gmacs(method: Method, size: int) -> float | None:
    """Counts multiply-adds while the method runs, tiles included; None if PyTorch does not run
    it."""
    if method.parameters is None:
        return None
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        method(np.zeros((size, size, 3), np.uint8))
    return counter.get_total_flops() / 2e9


@contextmanager
def _all_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
