"""The small ablation grid of Edge-SD-SR: each idea changed alone, with equal budgets.

    SRFORGE_DATA=… SRFORGE_WEIGHTS=… python -m tests.benchmarks.ablations --data work/shards

trains every arm (an interrupted one goes on), measures it on Set5 and BSD100 at ×4, and writes the
table to docs/ablations.md. Differences are paired, image by image; their intervals hold for other
images, and with several seeds for other runs too.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.config import load_config
from srmodels.metrics.suite import METRICS
from tests.conftest import ROOT
from tests.support.quality import scores

RECIPE = ROOT / "tests" / "benchmarks" / "ablations.yaml"
BENCHMARKS = ("Set5", "BSD100")
#: LPIPS with VGG would take longer than the training.
MEASURED = ("psnr_y", "ssim_y", "lpips_alex")
#: Between these lines of the page the table stands.
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Arm:
    """One row: what is changed, the stages that are trained, and whose result is measured."""

    title: str
    settings: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("autoencoder", "joint", "decoder")
    decoder_from: str = "joint"

    @property
    def result(self) -> str:
        return self.stages[-1]


#: The first is what the others are compared with.
ARMS = {
    "base": Arm("additive, learned variance, joint, decoder finetuned, not distilled"),
    "forward-none": Arm(
        "`forward=none`, so a constant variance (1) and no likelihood loss",
        ("networks.conditioning={forward: none, variance: constant, constant_variance: 1.0}",),
    ),
    "forward-resshift": Arm("`forward=resshift`", ("networks.conditioning.forward=resshift",)),
    "variance-zero": Arm(
        "`variance=zero`, so no likelihood loss", ("networks.conditioning.variance=zero",)
    ),
    "variance-constant": Arm(
        "`variance=constant` (0.25), so no likelihood loss",
        ("networks.conditioning.variance=constant",),
    ),
    "frozen-encoder": Arm(
        "LR encoder trained alone, then frozen",
        stages=("autoencoder", "encoder", "frozen", "decoder"),
        decoder_from="frozen",
    ),
    "distilled": Arm(
        "distilled from a ×2 teacher (half the budget each)",
        stages=("autoencoder", "teacher", "student", "decoder"),
        decoder_from="student",
    ),
    "no-finetune": Arm("decoder not finetuned (500 steps less)", stages=("autoencoder", "joint")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="work/shards", help="dataset to train on")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each arm")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "ablations.md")
    parsed = parser.parse_args()
    if not os.environ.get("SRFORGE_DATA"):
        raise SystemExit("error: set SRFORGE_DATA to the folder with the benchmark sets.")
    measured: dict[str, NDArray[np.float64]] = {}
    for name, arm in ARMS.items():
        for seed in range(parsed.seeds):
            train(name, arm, seed, parsed.data)
        measured[name] = np.stack([measure(name, arm, seed) for seed in range(parsed.seeds)])
        print(arm.title, measured[name].mean((0, 1)).round(4), flush=True)
    simple = scores("bicubic", BENCHMARKS, MEASURED)
    write(parsed.output, table(measured, simple))
    print(f"Table: {parsed.output}")


def settings(name: str, arm: Arm, seed: int) -> list[str]:
    return [
        f"recipe={RECIPE}",
        f"run.name=ablation-{name}-{seed}",
        f"seed={seed}",
        f"stages.decoder.init_from={arm.decoder_from}",
        *arm.settings,
    ]


def train(name: str, arm: Arm, seed: int, data: str) -> None:
    for stage in arm.stages:
        command = [sys.executable, "-m", "pipelines.training", f"stage={stage}", f"data={data}"]
        subprocess.run([*command, *settings(name, arm, seed)], check=True, cwd=ROOT)


def measure(name: str, arm: Arm, seed: int) -> NDArray[np.float64]:
    """Scores `[images, metrics]`."""
    config = load_config(settings(name, arm, seed))
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


def table(measured: dict[str, NDArray[np.float64]], simple: NDArray[np.float64]) -> str:
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
        lines.append(f"| {ARMS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(path: Path, content: str) -> None:
    """Puts the content where the page has its last table of this kind."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{content}\n{END}{after}")


if __name__ == "__main__":
    os.environ.setdefault("SRFORGE_HOME", str(ROOT))
    main()
