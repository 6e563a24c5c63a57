"""Small ablations of a system: each idea changed alone, with equal budgets.

    SRMILL_DATA=… SRMILL_WEIGHTS=… python -m tests.benchmarks.ablations edge_sd_sr --data shards

trains every arm (an interrupted one goes on), measures it on Set5 and BSD100 at ×4, and keeps the
scores. `python -m docs.tools.ablations_table` writes the table of them, and the figure of latencies
where the grid has any.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from docs.tools.ablations_table import Row, Scores, scores_file
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.evaluation.latency import machine, measure_costs
from pipelines.evaluation.methods import Method, OnnxFile
from pipelines.models.load import load_model
from srmodels.edge.target import ExportSettings, make_target
from srmodels.latency import Latency
from tests.benchmarks.grids import GRIDS, Arm, Grid
from tests.conftest import ROOT
from tests.support.quality import preview_scores, scores

BENCHMARKS = ("Set5", "BSD100")
#: Sides of the square LR images that are timed, px: those of the Light F2SRGAN paper.
SIZES = (144, 360, 480, 720, 1080)
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("grid", choices=GRIDS, help="the system")
    parser.add_argument("--data", default="work/shards", help="dataset to train on")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm")
    parsed = parser.parse_args()
    if not os.environ.get("SRMILL_DATA"):
        raise SystemExit("error: set SRMILL_DATA to the folder with the benchmark sets.")
    grid = GRIDS[parsed.grid]
    for seed in range(parsed.seeds):
        for name in grid.arms:
            train(grid, name, seed, parsed.data)
    rows: list[Row] = []
    for name, arm in grid.arms.items():
        seeds = range(1 if arm.model else parsed.seeds)
        measured = np.stack([measure(grid, name, seed) for seed in seeds])
        rows.append(Row(arm.title, measured))
        print(arm.title, measured.mean((0, 1)).round(4), flush=True)
    simple = scores("bicubic", BENCHMARKS, grid.metrics)
    path, found = scores_file(parsed.grid), Scores(grid.metrics, simple, tuple(rows))
    found.save(path)
    replace(found, latencies=time_arms(grid, path.parent), machine=machine()).save(path)
    print(f"Scores: {path}")


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


def time_arms(grid: Grid, folder: Path) -> dict[str, list[Latency]]:
    """Latencies of the first seed's edge artifacts, by the title of their arm. All take turns."""
    timed = {name: arm for name, arm in grid.arms.items() if arm.target}
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
