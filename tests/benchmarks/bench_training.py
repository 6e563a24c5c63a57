"""Measures the cost of the training runtime over a bare PyTorch loop, and the parts of a step.

Ratios are of alternating runs of the same steps on the same batches.
"""

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import CropSettings, TrainingStream, to_unit
from pipelines.training.launch import run_stages
from pipelines.training.schedule import group_settings, learning_rate
from tests.benchmarks.stopwatch import CPU_TIME, Stopwatch
from tests.conftest import ROOT, write_dataset

ROUNDS, STEPS, CHECKPOINT_EVERY = 3, 12, 5
CPU = torch.device("cpu")
REST = "anything else"
BARE, RUNTIME = "bare loop", "runtime"
SAVING = f"runtime, checkpoint every {CHECKPOINT_EVERY} steps"
DATA, FORWARD, BACKWARD, OPTIMIZER = "wait for data", "forward", "backward", "optimizer's step"
CLIP, UNIT, CHECKPOINT = "norm and clipping", "uint8 to float", "CheckpointCallback"


#: A stopwatch for each of BARE, RUNTIME and SAVING.
Round = dict[str, Stopwatch]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample photos as tiles of 256 px."""
    directory = tmp_path_factory.mktemp("bench")
    write_dataset("sample", directory, "shard.tile=256", "shard.val_tile=256", "shard.shard_mib=4")
    return directory


def configure(tiles: Path, *arguments: str) -> Config:
    settings = ["recipe=edge_sd_sr_tiny", f"data={tiles}", "stages.joint.init_from=null"]
    settings += ["train.workers=0", "train.crop=256", f"train.steps={STEPS}"]
    return load_config([*settings, *arguments])


def run_bare(config: Config) -> Stopwatch:
    """Trains the stage in the plain loop that anybody would write for it."""
    from pipelines.training.build import build_stage

    train = config.stages["joint"].train
    stage = build_stage(config, "joint")
    optimizer = torch.optim.AdamW(
        [
            {
                "params": list(group.parameters),
                "name": group.name,
                "weight_decay": group_settings(train, group.name).weight_decay,
            }
            for group in stage.parameter_groups()
        ]
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    stream = TrainingStream(
        open_dataset(config.data, config.stream),
        CropSettings.of(config, train),
        seed=config.seed,
        batch_size=train.batch_size,
    )
    watch = Stopwatch()
    with closing(iter(stream)) as batches:  # type: ignore[type-var]
        for step in range(train.steps):
            with watch.part(DATA):
                batch = next(batches)
            with watch.part(UNIT):
                x_l, x_h = to_unit(batch.x_l, CPU), to_unit(batch.x_h, CPU)
            with watch.part(FORWARD):
                loss = stage(x_l, x_h, batch.seeds)["loss"]
            with watch.part(BACKWARD):
                loss.backward()
            with watch.part(CLIP):
                torch.nn.utils.clip_grad_norm_(parameters, train.gradient_clip)
            with watch.part(OPTIMIZER):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(train, group["name"], step)
                optimizer.step()
                optimizer.zero_grad()
            watch.step_done(loss)
    return watch


def run_runtime(config: Config, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """`jobs/train.py stage=joint train.workers=0`, with a stopwatch around its parts."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    from pipelines.training.callbacks import build as cb
    from pipelines.training.engine import Engine
    from pipelines.training.turn import Turn

    watch = Stopwatch()
    watched: list[tuple[type, str, str]] = [
        (Engine, "_micro_batches", UNIT),
        (DeepSpeedEngine, "forward", FORWARD),
        (DeepSpeedEngine, "backward", BACKWARD),
        (Turn, "_clip", CLIP),
        (DeepSpeedEngine, "step", OPTIMIZER),
    ]
    for name in ("NonFiniteGuard", "EMACallback", "MetricsCallback", CHECKPOINT):
        watched.append((getattr(cb, name), "after_step", name))
    for name in ("PreemptionCallback", "ProgressCallback"):
        watched.append((getattr(cb, name), "after_step", name))
    with monkeypatch.context() as patch:
        for owner, method, name in watched:
            patch.setattr(owner, method, watch.watched(name, getattr(owner, method)))
        draw = cb.ProgressCallback.after_step  # the last one that sees a step

        def after_step(self: Any, result: Any) -> None:
            draw(self, result)
            watch.step_done(result.losses["loss"], **{DATA: result.data_seconds})

        patch.setattr(cb.ProgressCallback, "after_step", after_step)
        run_stages(config, ["joint"])
    return watch


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("threads", "batch_size"), [(1, 16), (2, 24)])
def test_the_runtime_against_a_bare_loop(
    tiles: Path, threads: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed, averages, metrics to MLflow, the bar; with and without checkpoints on the way."""
    rounds: list[Round] = []
    with torch_threads(threads):
        for number in range(ROUNDS + 1):
            # The first warms up: imports, the extension that DeepSpeed builds, MLflow's database.
            settings = [f"train.batch_size={batch_size}", "train.log_every=2"]
            settings += [] if number else ["train.steps=3"]
            configs = {
                every: configure(
                    tiles,
                    *settings,
                    f"train.checkpoint_every={every}",
                    f"run.name=bench-{threads}-{number}-{every}",
                )
                for every in (STEPS, CHECKPOINT_EVERY)
            }
            found = {BARE: run_bare(configs[STEPS])}
            found[RUNTIME] = run_runtime(configs[STEPS], monkeypatch)
            found[SAVING] = run_runtime(configs[CHECKPOINT_EVERY], monkeypatch)
            rounds.append(found)
    for found in rounds:
        for arm in (RUNTIME, SAVING):
            for ours, theirs in islice(zip(found[arm].losses, found[BARE].losses, strict=True), 5):
                assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    print(f"\n\n{threads} torch thread(s), batch size {batch_size}")
    report(rounds[1:])
    report_parts(rounds[1:])


def report(rounds: list[Round]) -> None:
    """Seconds of a step, and by how much they are more than the bare loop's."""
    print(f"{'round':<9}{'':<34}{'s/step':>8}{'medians':>9}{'means':>8}{'CPU time':>10}")
    ratios: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for number, found in enumerate(rounds, 1):
        bare = found[BARE]
        print(f"{number:<9}{BARE:<34}{bare.mean():>8.3f}")
        for arm in (RUNTIME, SAVING):
            watch = found[arm]
            ratio = (
                watch.median / bare.median,
                watch.mean() / bare.mean(),
                watch.mean(CPU_TIME) / bare.mean(CPU_TIME),
            )
            ratios[arm].append(ratio)
            print(f"{'':<9}{arm:<34}{watch.mean():>8.3f}{told(ratio)}")
    for arm, found_ratios in ratios.items():
        medians = [statistics.median(column) for column in zip(*found_ratios, strict=True)]
        print(f"{'median':<9}{arm:<42}{told(medians)}")


def told(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:>9.3f}{ratio[1]:>8.3f}{ratio[2]:>10.3f}"


def report_parts(rounds: list[Round]) -> None:
    """Medians over the rounds of each part's mean; checkpoints are of the last arm."""
    print(f"\n{'part of a step':<24}{'bare ms':>9}{'runtime ms':>12}{'of its step':>13}")
    whole = statistics.median(found[SAVING].mean() for found in rounds)
    for part in [*dict.fromkeys(rounds[0][BARE].parts + rounds[0][SAVING].parts), REST]:
        theirs, ours = (
            statistics.median(
                found[arm].rest if part == REST else found[arm].mean(part) for found in rounds
            )
            for arm in (BARE, SAVING)
        )
        print(f"{part:<24}{1e3 * theirs:>9.1f}{1e3 * ours:>12.1f}{ours / whole:>13.2%}")
    held, spent = (
        [
            CHECKPOINT_EVERY * (found[SAVING].mean(name) - found[RUNTIME].mean(name))
            for found in rounds
        ]
        for name in (CHECKPOINT, CPU_TIME)
    )
    print(
        f"\none checkpoint holds the loop up for {1e3 * statistics.median(held):.0f} ms and takes "
        f"{1e3 * statistics.median(spent):.0f} ms of CPU time, publishing included"
    )


def test_two_workers_against_one(tiles: Path, tmp_path: Path) -> None:
    """One thread each, started by torchrun on the machine's cores, the same samples per step."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(3):
        for workers, found in rates.items():
            home = tmp_path / f"{number}-{workers}"
            arguments = [
                *("recipe=edge_sd_sr_tiny", f"data={tiles}", "stage=joint"),
                *("stages.joint.init_from=null", "train.accelerator=cpu", "train.crop=256"),
                *("train.batch_size=16", "train.steps=12", "train.log_every=2"),
                "train.validate_every=0",
            ]
            subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={workers}",
                 "--standalone", "-m", "pipelines.training", *arguments],
                cwd=ROOT,
                env=os.environ | {"SRMILL_HOME": str(home), "OMP_NUM_THREADS": "1"},
                check=True,
                capture_output=True,
            )  # fmt: skip
            [metrics] = home.rglob("metrics.jsonl")
            told = [json.loads(line)["metrics"] for line in metrics.read_text().splitlines()]
            # The first includes the first step, the last the checkpoint.
            found.append(statistics.median(t["speed/samples_per_second"] for t in told[1:-1]))
    one, two = (statistics.median(rates[workers]) for workers in (1, 2))
    print(
        f"\n\none worker {one:.2f} samples/s, two {two:.2f}: {two / one:.2f} times as many on "
        f"{len(os.sched_getaffinity(0))} cores"
    )
