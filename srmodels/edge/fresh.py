"""Runs an artifact in a process of its own, which knows nothing of the export."""

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from srmodels.edge.process import run_module
from srmodels.edge.target import make_target
from srmodels.latency import peak_bytes

#: The longest that a process may take, and one that simulates a phone's processor.
_SECONDS, _SIMULATOR_SECONDS = 300, 1800


@dataclass(frozen=True)
class FreshRun:
    """The result of one tile in a fresh process.

    Attributes:
        x_h: the HR tile `[1, 3, scale·tile, scale·tile]`.
        peak_bytes: memory of the first run beyond the loaded weights, see
            `srmodels.latency.peak_bytes`.
    """

    x_h: Tensor
    peak_bytes: int | None


def run_fresh(target: str, path: Path, x_l: Tensor, threads: int = 0) -> FreshRun:
    """Loads an artifact in a new process and runs it on one tile.

    Args:
        target: name of the artifact's target.
        x_l: the LR tile `[1, 3, tile, tile]` in [0, 1].
        threads: as `EdgeTarget.load` takes them.

    Raises:
        ValueError: that process fails; its last line is the message.
    """
    limit = _SIMULATOR_SECONDS if make_target(target).simulated else _SECONDS
    with TemporaryDirectory() as folder:
        given, made = Path(folder) / "x_l.npy", Path(folder) / "x_h.npy"
        np.save(given, x_l.numpy())
        told = run_module(__name__, target, path.resolve(), given, made, threads, seconds=limit)
        if not made.is_file():
            raise ValueError("it made no image")
        peak = told.strip().splitlines()[-1]
        return FreshRun(torch.from_numpy(np.load(made)), int(peak) if peak != "None" else None)


def _main(target: str, path: str, given: str, made: str, threads: str) -> None:
    x_l = torch.from_numpy(np.load(given))
    runner = make_target(target).load(Path(path), int(threads))

    def run() -> None:
        np.save(made, runner.run(x_l).numpy())

    print(peak_bytes(run))


if __name__ == "__main__":
    _main(*sys.argv[1:])
