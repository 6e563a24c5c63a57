"""Step time, MFU and peak memory of the full-size network on one GPU, by the switches of `train`.

    python -m tests.benchmarks.bench_training_cuda [batch size …]

Needs neither Ray nor MLflow, and no data: the batches are random, and wait on the GPU.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.data.stream import Batch
from pipelines.training.cost import training_cost
from pipelines.training.hardware import memory_gib, peak_flops
from pipelines.training.local import join_group
from pipelines.training.worker import prepare_deepspeed

BATCH_SIZES, CROP = (8, 16, 32, 64), 512
# Compilation and cuDNN's choice of kernels fall into the warm-up.
WARM_UP, STEPS = 5, 20
SWITCHES = ("channels_last", "compile", "activation_checkpointing")
#: The networks are the defaults of `srmodels.edge_sd_sr.config`.
RECIPE = """
system: edge_sd_sr
shard: {tile: 512}
train: {precision: bf16, workers: 0}
stages:
  joint: {}
"""


def full_size(*arguments: str) -> Config:
    """Edge-SD-SR at the size of its configuration's defaults, its joint stage from scratch."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "full.yaml"
        recipe.write_text(RECIPE)
        return load_config([f"recipe={recipe}", f"train.crop={CROP}", *arguments])


def random_batch(batch_size: int, crop: int, scale: int, device: torch.device) -> Batch:
    """Laid out as `collate` does it."""

    def images(side: int) -> torch.Tensor:
        shape = (batch_size, side, side, 3)
        return torch.randint(256, shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)

    return Batch(
        x_l=images(crop // scale),
        x_h=images(crop),
        seeds=torch.arange(batch_size),
        keys=[str(number) for number in range(batch_size)],
    )


def step_seconds(config: Config, device: torch.device, warm_up: int, steps: int) -> float:
    """Returns the seconds of the median step of the joint stage, its EMA included."""
    from pipelines.training.build import build_engine

    train = config.stages["joint"].train
    engine, ema = build_engine(config, "joint", device)
    batch = random_batch(train.batch_size, train.crop, config.networks.scale, device)
    events = [torch.Event(device, enable_timing=True) for _ in range(steps + 1)]
    for step in range(warm_up + steps):
        if step >= warm_up:
            events[step - warm_up].record()
        assert engine.step(batch, step).applied, "the gradient is not finite"
        ema.update()
    events[-1].record()
    events[-1].synchronize()
    return statistics.median(start.elapsed_time(end) / 1e3 for start, end in pairwise(events))


def measure(batch_size: int, switches: Sequence[bool]) -> str:
    """A row of the table. In a process of its own: DeepSpeed keeps what it once had."""
    device = torch.device("cuda", torch.cuda.current_device())
    join_group(cuda=True)
    prepare_deepspeed(device)
    chosen = [f"train.{n}={str(v).lower()}" for n, v in zip(SWITCHES, switches, strict=True)]
    config = full_size(f"train.batch_size={batch_size}", *chosen)
    row = f"{batch_size:>5}" + "".join(f"{'on' if on else '-':>14}" for on in switches)
    try:
        seconds = step_seconds(config, device, WARM_UP, STEPS)
    except torch.OutOfMemoryError:
        return f"{row}  out of memory"
    # Recomputed activations are work, but none that the model asks for.
    asked = full_size(f"train.batch_size={batch_size}", "train.activation_checkpointing=false")
    flops = training_cost(asked, "joint").flops * batch_size / seconds
    peak = peak_flops(device, "bf16")
    mfu = f"{flops / peak:>8.1%}" if peak else f"{'?':>8}"
    return (
        f"{row}{1e3 * seconds:>9.1f}{batch_size / seconds:>11.1f}{flops / 1e12:>9.1f}{mfu}"
        f"{memory_gib(device):>10.1f}"
    )


def print_table(batch_sizes: Sequence[int]) -> None:
    name = torch.cuda.get_device_name()
    print(f"\n{name}, joint stage with its EMA, crop {CROP}, bf16 autocast")
    print(
        f"{'batch':>5}{'channels_last':>14}{'compile':>14}{'recompute':>14}"
        f"{'ms/step':>9}{'samples/s':>11}{'TFLOPS':>9}{'MFU':>8}{'peak GiB':>10}"
    )
    rows = product(batch_sizes, product((False, True), repeat=len(SWITCHES)))
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for row in processes.map(measure, *zip(*rows, strict=True)):
            print(row, flush=True)


def test_full_size_steps_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU: the full-size network was not measured")
    print_table(BATCH_SIZES)


if __name__ == "__main__":
    print_table([int(size) for size in sys.argv[1:]] or BATCH_SIZES)
