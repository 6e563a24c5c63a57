"""Small ablations of a system: each idea changed alone, with equal budgets.

    SRMILL_DATA=… SRMILL_WEIGHTS=… python -m tests.benchmarks.ablations edge_sd_sr --data shards

trains every arm (an interrupted one goes on), measures it on Set5 and BSD100 at ×4, and writes the
table to the grid's page (see grids.py). Differences are paired, image by image; their intervals
hold for other images, and with several seeds for other runs too.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.config.load import load_config
from srmodels.metrics.suite import METRICS
from tests.benchmarks.grids import GRIDS, Grid
from tests.conftest import ROOT
from tests.support.quality import oracle_scores, scores

BENCHMARKS = ("Set5", "BSD100")
#: LPIPS with VGG would take longer than the training.
MEASURED = ("psnr_y", "ssim_y", "lpips_alex")
#: Between these lines of the page the table stands.
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("grid", choices=GRIDS, help="the system")
    parser.add_argument("--data", default="work/shards", help="dataset to train on")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm")
    parsed = parser.parse_args()
    if not os.environ.get("SRMILL_DATA"):
        raise SystemExit("error: set SRMILL_DATA to the folder with the benchmark sets.")
    grid = GRIDS[parsed.grid]
    measured: dict[str, NDArray[np.float64]] = {}
    for name, arm in grid.arms.items():
        for seed in range(parsed.seeds):
            train(grid, name, seed, parsed.data)
        measured[name] = np.stack([measure(grid, name, seed) for seed in range(parsed.seeds)])
        print(arm.title, measured[name].mean((0, 1)).round(4), flush=True)
    simple = scores("bicubic", BENCHMARKS, MEASURED)
    write(grid.page, table(grid, measured, simple))
    print(f"Table: {grid.page}")


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


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the mean of `[seeds, images]`, by a bootstrap over images and over seeds."""
    generator = np.random.default_rng(0)
    seeds, count = differences.shape
    means = [
        differences[
            generator.integers(seeds, size=(seeds, 1)), generator.integers(count, size=count)
        ].mean()
        for _ in range(5000)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def table(grid: Grid, measured: dict[str, NDArray[np.float64]], simple: NDArray[np.float64]) -> str:
    metrics = [METRICS[name].title for name in MEASURED]
    base = measured["base"]
    lines = [
        f"| | {' | '.join(metrics)} |",
        f"|{'---|' * (1 + len(metrics))}",
        f"| bicubic | {' | '.join(f'{value:.4f}' for value in simple.mean(0))} |",
    ]
    for name, found in measured.items():
        cells = []
        for column in range(len(metrics)):
            cell = f"{found[..., column].mean():.4f}"
            if name != "base":
                low_end, high_end = interval(found[..., column] - base[..., column])
                cell += f" ({low_end:+.4f} … {high_end:+.4f})"
            cells.append(cell)
        lines.append(f"| {grid.arms[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(path: Path, content: str) -> None:
    """Puts the content where the page has its last table of this kind."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{content}\n{END}{after}")


if __name__ == "__main__":
    os.environ.setdefault("SRMILL_HOME", str(ROOT))
    main()
