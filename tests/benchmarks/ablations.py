"""Small ablations of a system: each idea changed alone, with equal budgets.

    SRMILL_DATA=… SRMILL_WEIGHTS=… python -m tests.benchmarks.ablations edge_sd_sr --data shards

trains every arm (an interrupted one goes on), measures it on Set5 and BSD100 at ×4, and keeps the
scores. `python -m docs.tools.ablations_table` writes the table of them.
"""

import argparse
import os
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from docs.tools.ablations_table import Row, Scores, scores_file
from pipelines.config.load import load_config
from tests.benchmarks.grids import GRIDS, Grid
from tests.conftest import ROOT
from tests.support.quality import oracle_scores, scores

BENCHMARKS = ("Set5", "BSD100")
#: LPIPS with VGG would take longer than the training.
MEASURED = ("psnr_y", "ssim_y", "lpips_alex")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("grid", choices=GRIDS, help="the system")
    parser.add_argument("--data", default="work/shards", help="dataset to train on")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm")
    parsed = parser.parse_args()
    if not os.environ.get("SRMILL_DATA"):
        raise SystemExit("error: set SRMILL_DATA to the folder with the benchmark sets.")
    grid = GRIDS[parsed.grid]
    rows: list[Row] = []
    for name, arm in grid.arms.items():
        for seed in range(parsed.seeds):
            train(grid, name, seed, parsed.data)
        found = np.stack([measure(grid, name, seed) for seed in range(parsed.seeds)])
        rows.append(Row(arm.title, found))
        print(arm.title, found.mean((0, 1)).round(4), flush=True)
    simple = scores("bicubic", BENCHMARKS, MEASURED)
    path = scores_file(parsed.grid)
    Scores(MEASURED, simple, tuple(rows)).save(path)
    print(f"Scores: {path}")


def settings(grid: Grid, name: str, seed: int) -> list[str]:
    arm = grid.arms[name]
    run = f"run.name={grid.recipe.stem}-{name}-{seed}"
    return [f"recipe={arm.recipe or grid.recipe}", run, f"seed={seed}", *arm.settings]


def train(grid: Grid, name: str, seed: int, data: str) -> None:
    for stage in grid.arms[name].stages:
        command = [sys.executable, "-m", "pipelines.training", f"stage={stage}", f"data={data}"]
        subprocess.run([*command, *settings(grid, name, seed)], check=True, cwd=ROOT)


def measure(grid: Grid, name: str, seed: int) -> NDArray[np.float64]:
    """Scores `[images, metrics]`."""
    arm = grid.arms[name]
    config = load_config(settings(grid, name, seed))
    if arm.oracle:
        return oracle_scores(config, arm.result, BENCHMARKS, MEASURED)
    return scores(f"run:{config.run.name}-{arm.result}", BENCHMARKS, MEASURED, config)


if __name__ == "__main__":
    os.environ.setdefault("SRMILL_HOME", str(ROOT))
    main()
