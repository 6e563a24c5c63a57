"""One rank of a stage's run: builds network, stage, engine, stream and callbacks, then loops."""

import os
from pathlib import Path
from typing import Any

import ninja
import torch
import torch.distributed as dist

from pipelines.config import from_dict
from pipelines.data.dataset import Dataset
from pipelines.data.stream import CropSettings, TrainingStream
from pipelines.schema import Config, TrainConfig
from pipelines.training import checkpoint as ckpt
from srmodels.system import Stage, load_system


def run_rank(job: dict[str, Any]) -> None:
    """Trains (or resumes) the stage that `job` describes.

    Needs an initialised process group. `job` is what `runs.describe` made: the
    configuration, the stage's name, the opened dataset, the run's directory, the MLflow run.
    """
    config, name = from_dict(job["config"]), job["stage"]
    train = config.stages[name].train
    device = (
        torch.device("cuda", torch.cuda.current_device()) if job["cuda"] else torch.device("cpu")
    )
    # DeepSpeed picks its accelerator when it is imported, and builds a small extension with ninja,
    # which is not on the PATH where a virtual environment's Python is started by its path.
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ["PATH"] = f"{ninja.BIN_DIR}{os.pathsep}{os.environ.get('PATH', '')}"
    from pipelines.training.callbacks import CheckpointCallback, EMACallback, MetricsCallback
    from pipelines.training.ema import EMA
    from pipelines.training.engine import Engine
    from pipelines.training.loop import train as run_loop

    run = Path(job["run_directory"])
    stage = build_stage(config, name, job["init_checkpoint"]).to(device)
    engine = Engine(stage, train, device)
    ema = EMA(stage.network, train.ema_half_life)
    first_step = 0
    if resume := ckpt.newest_checkpoint(run):
        engine.load(resume)
        ema.load_state_dict(ckpt.load_ema(resume))
        first_step = ckpt.load_state(resume).step
        if dist.get_rank() == 0:
            print(f"{name}: resuming at step {first_step} of {train.steps} from {resume}")

    dataset: Dataset = job["dataset"]
    stream = TrainingStream(
        dataset,
        CropSettings.of(config, train),
        seed=config.seed,
        batch_size=train.batch_size,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        start_step=first_step,
        processes=train.loader_processes,
    )

    leader = dist.get_rank() == 0
    metrics = MetricsCallback(
        _client(job) if leader else None,
        job["mlflow_run"],
        engine,
        every=train.log_every,
        batch_size=train.batch_size,
        steps=train.steps,
    )

    def make_state(step: int) -> ckpt.RunState:
        return ckpt.RunState(
            step=step,
            samples=step * train.batch_size,
            world_size=dist.get_world_size(),
            zero_stage=train.zero_stage,
            seed=config.seed,
            manifest=dataset.manifest.digest,
            identity=job["identity"],
            metrics=metrics.last,
            config=job["config"],
        )

    callbacks: list[Any] = [EMACallback(ema), metrics]
    callbacks.append(CheckpointCallback(run, engine, ema, train, make_state))
    if leader:
        callbacks.append(_progress(name, first_step, train))
    run_loop(engine, stream, callbacks, first_step=first_step, steps=train.steps)


def build_stage(config: Config, name: str, init_checkpoint: str | None) -> Stage:
    """The stage on freshly seeded networks, or on those of a checkpoint. In train mode."""
    system, stage = load_system(config.system), config.stages[name]
    torch.manual_seed(config.seed)
    network = system.build(config.networks)
    if init_checkpoint is not None:
        network.load_state_dict(ckpt.load_weights(Path(init_checkpoint)))
    return system.stages[stage.kind](network, stage.options).train()


def _progress(name: str, first_step: int, train: TrainConfig) -> Any:
    from pipelines.training.callbacks import ProgressCallback

    return ProgressCallback(name, first_step, train.steps, train.batch_size)


def _client(job: dict[str, Any]) -> Any:
    import mlflow

    return mlflow.MlflowClient(job["mlflow_uri"])
