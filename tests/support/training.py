"""A real engine for tests of what watches one, and a process group of one or of several ranks."""

import atexit
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import CropSettings, TrainingStream
from pipelines.training.local import join_group, leave_group
from pipelines.training.loop import StepResult
from pipelines.training.recorder import JSONLinesRecorder
from pipelines.training.worker import prepare_deepspeed
from srmodels.stage import Stage
from tests.conftest import SMALL

CPU = torch.device("cpu")


def join(rank: int = 0, world_size: int = 1, store: Path | None = None) -> None:
    """Joins a gloo group until the process ends; a process that is in one stays there."""
    if store is None:
        return join_group(cuda=False)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size)
    atexit.register(leave_group)


def configure(dataset: Path, *arguments: str) -> Config:
    """The small recipe, trained in this process."""
    return load_config([f"recipe={SMALL}", f"data={dataset}", "train.workers=0", *arguments])


def make_stage(config: Config, name: str) -> Stage:
    prepare_deepspeed(CPU)
    from pipelines.training.build import build_stage

    return build_stage(config, name)


def make_engine(config: Config, stage: str = "autoencoder") -> Any:
    """An engine that has made one step on the dataset."""
    prepare_deepspeed(CPU)
    from pipelines.training.build import build_engine

    train = config.stages[stage].train
    engine, _ = build_engine(config, stage, CPU)
    stream = TrainingStream(
        open_dataset(config.data, config.stream),
        CropSettings.of(config, train),
        seed=0,
        batch_size=train.batch_size,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )
    batches = iter(stream)
    engine.step(next(batches), 0)
    batches.close()  # type: ignore[attr-defined]
    return engine


def result(step: int, *, applied: bool = True, **losses: float) -> StepResult:
    """A step of one second, a quarter of which was spent waiting for data."""
    tensors = {name: torch.tensor(value) for name, value in losses.items()}
    return StepResult(step, tensors, ["a", "b"], 0.25, 1.0, applied)


def recorder_in(folder: Path) -> JSONLinesRecorder:
    return JSONLinesRecorder(folder / "metrics.jsonl")


def recorded_in(folder: Path, kind: str = "metrics") -> list[tuple[int | None, Any]]:
    """(step, what was recorded) of every line of this kind."""
    path = folder / "metrics.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [(line.get("step"), line[kind]) for line in lines if kind in line]
