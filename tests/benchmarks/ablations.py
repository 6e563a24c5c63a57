"""Small ablations of a system: each idea changed alone, with equal budgets.

    SRMILL_DATA=… SRMILL_WEIGHTS=… python -m tests.benchmarks.ablations edge_sd_sr --data shards

trains every arm (an interrupted one goes on) and measures it on Set5 and BSD100 at ×4. The scores
of an arm and a seed are kept in docs/results/ablations at once, so that another machine, or another
day, can add a seed. `python -m docs.tools.ablations_table` writes the table of them, and the figure
of latencies where the grid has any.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from docs.tools.ablations_table import Row, Scores, scores_file
from pipelines.config.load import load_config, to_dict
from pipelines.config.reference import ModelReference
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.latency import machine, measure_costs
from pipelines.evaluation.methods import Method, OnnxFile
from pipelines.models.load import load_model
from pipelines.storage.digests import digest
from pipelines.storage.files import read_json, write_bytes
from srmodels.edge.target import ExportSettings, make_target
from srmodels.latency import Latency
from tests.benchmarks.grids import GRIDS, Arm, Grid
from tests.conftest import ROOT
from tests.support.quality import preview_scores, scores

BENCHMARKS = ("Set5", "BSD100")
#: Sides of the square LR images that are timed, px: those of the Light F2SRGAN paper.
SIZES = (144, 360, 480, 720, 1080)
RUNS = 5
#: The folder of the scores that were measured so far, a file for each grid.
KEPT = ROOT / "docs" / "results" / "ablations"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("grid", choices=GRIDS, help="the system")
    parser.add_argument("--data", default="work/shards", help="dataset to train on")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm")
    parsed = parser.parse_args()
    if not os.environ.get("SRMILL_DATA"):
        raise SystemExit("error: set SRMILL_DATA to the folder with the benchmark sets.")
    grid, kept = GRIDS[parsed.grid], Kept(KEPT / f"{parsed.grid}.json", manifest(parsed.data))
    for seed in range(parsed.seeds):
        for name, arm in grid.arms.items():
            if seed == 0 or not arm.model:
                find(grid, name, seed, parsed.data, kept)
    rows: list[Row] = []
    for name, arm in grid.arms.items():
        seeds = range(1 if arm.model else parsed.seeds)
        measured = np.stack([find(grid, name, seed, parsed.data, kept) for seed in seeds])
        rows.append(Row(arm.title, measured))
        print(arm.title, measured.mean((0, 1)).round(4), flush=True)
    simple = scores("bicubic", BENCHMARKS, grid.metrics)
    path, found = scores_file(parsed.grid), Scores(grid.metrics, simple, tuple(rows))
    found.save(path)
    timed = time_arms(grid, path.parent, parsed.data)
    replace(found, latencies=timed, machine=machine()).save(path)
    print(f"Scores: {path}")


def manifest(data: str) -> str:
    config = load_config([f"data={data}"])
    return open_dataset(config.data, config.stream).manifest.digest


@dataclass(frozen=True)
class Kept:
    """The scores that were measured so far, in a file of the repository.

    Attributes:
        manifest: digest of the dataset that the arms are trained on.
    """

    path: Path
    manifest: str

    def find(self, key: str, identity: str) -> NDArray[np.float64] | None:
        """Scores `[images, metrics]`; None where they were measured with other settings."""
        entry = self._all().get(key)
        if entry is None or entry["identity"] != identity:
            return None
        return np.array(entry["scores"])

    def keep(self, key: str, identity: str, found: NDArray[np.float64]) -> None:
        entry = {"identity": identity, "scores": found.round(6).tolist()}
        entries = sorted((self._all() | {key: entry}).items())
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in entries)
        write_bytes(self.path, f"{{\n{lines}\n}}\n".encode())

    def _all(self) -> dict[str, Any]:
        return read_json(self.path) if self.path.exists() else {}

    def identity(self, grid: Grid, name: str, seed: int) -> str:
        """All that shapes the scores of an arm, with those of the arm that it starts from."""
        arm, shaping = grid.arms[name], to_dict(load_config(settings(grid, name, seed)))
        # Places: the manifest's digest says which photos they are.
        del shaping["data"], shaping["recipe"]
        start = self.identity(grid, arm.start[0], seed) if arm.start else None
        measured = [arm.stages, arm.previewed, arm.model, grid.metrics, BENCHMARKS]
        return digest([shaping, self.manifest, start, measured])[:16]


def find(grid: Grid, name: str, seed: int, data: str, kept: Kept) -> NDArray[np.float64]:
    """Scores `[images, metrics]` of an arm; trains and measures it where that was not done yet."""
    key, identity = f"{name}-{seed}", kept.identity(grid, name, seed)
    if (known := kept.find(key, identity)) is not None:
        return known
    ensure(grid, name, seed, data)
    found = measure(grid, name, seed)
    kept.keep(key, identity, found)
    print(key, found.mean(0).round(4), flush=True)
    return found


def ensure(grid: Grid, name: str, seed: int, data: str) -> None:
    """Trains an arm, and before it the one that it starts from."""
    start = grid.arms[name].start
    if start is not None:
        ensure(grid, start[0], seed, data)
    train(grid, name, seed, data)


def run_of(grid: Grid, name: str, seed: int) -> str:
    return f"{grid.recipe.stem}-{name}-{seed}"


def settings(grid: Grid, name: str, seed: int) -> list[str]:
    arm = grid.arms[name]
    run, recipe = f"run.name={run_of(grid, name, seed)}", arm.recipe or grid.recipe
    begun = []
    if arm.start is not None:
        before, stage = arm.start
        begun = [f"stages.{arm.stages[0]}.init_from=run:{run_of(grid, before, seed)}-{stage}"]
    return [f"recipe={recipe}", run, f"seed={seed}", *arm.settings, *begun]


def train(grid: Grid, name: str, seed: int, data: str) -> None:
    for stage in grid.arms[name].stages:
        command = [sys.executable, "-m", "pipelines.training", f"stage={stage}", f"data={data}"]
        subprocess.run([*command, *settings(grid, name, seed)], check=True, cwd=ROOT)


def reference_of(grid: Grid, name: str, seed: int) -> str:
    arm = grid.arms[name]
    return arm.model or f"run:{run_of(grid, name, seed)}-{arm.result}"


def measure(grid: Grid, name: str, seed: int) -> NDArray[np.float64]:
    """Scores `[images, metrics]`."""
    arm = grid.arms[name]
    config = load_config(settings(grid, name, seed))
    if arm.previewed:
        return preview_scores(config, arm.result, BENCHMARKS, grid.metrics)
    return scores(reference_of(grid, name, seed), BENCHMARKS, grid.metrics, config)


def time_arms(grid: Grid, folder: Path, data: str) -> dict[str, list[Latency]]:
    """Latencies of the first seed's edge artifacts, by the title of their arm. All take turns."""
    timed = {name: arm for name, arm in grid.arms.items() if arm.target}
    for name in timed:
        ensure(grid, name, 0, data)
    methods = list(artifacts(grid, timed, folder))
    costs = measure_costs(methods, SIZES, RUNS) if timed else {}
    return {
        arm.title: costs[method.reference].latencies
        for arm, method in zip(timed.values(), methods, strict=True)
    }


def artifacts(grid: Grid, arms: dict[str, Arm], folder: Path) -> Iterator[Method]:
    for name, arm in arms.items():
        config = load_config(settings(grid, name, seed=0))
        model = load_model(ModelReference.parse(reference_of(grid, name, seed=0)), config)
        path = folder / f"{grid.recipe.stem}-{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        tile = model.network.tiling(model.config.export.tile).tile
        assert arm.target is not None
        make_target(arm.target).export(model.network, path, ExportSettings(tile))
        yield OnnxFile(f"onnx:{path}", path)


if __name__ == "__main__":
    os.environ.setdefault("SRMILL_HOME", str(ROOT))
    main()
