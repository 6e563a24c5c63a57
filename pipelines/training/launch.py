"""Runs stages under Ray Train: checks everything on the driver, then starts or resumes the run."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import tracking
from pipelines.cluster import connect
from pipelines.config import to_dict
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import check_crop
from pipelines.errors import UserError
from pipelines.schema import Config, TrainConfig
from pipelines.storage import resolve
from pipelines.training import checkpoint as ckpt
from pipelines.training.plan import run_directory, run_name, stage_plan
from pipelines.training.runs import describe, init_checkpoint, is_done, lease, state_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run_stages(config: Config, stages: Sequence[str]) -> list[Path]:
    """Trains stages in order; returns the final checkpoint of each.

    Stages that are complete are left alone, interrupted ones go on where they stopped.

    Raises:
        UserError: anything that can be known before training starts, and training's own failure.
    """
    if not stages:
        raise UserError(f"recipe {config.recipe} has no stage for this job: see its YAML.")
    dataset = open_dataset(config.data, config.stream)
    for name in stages:
        check_crop(dataset, config.stages[name].train.crop)
    for name in stages:
        init_checkpoint(config, name, planned=stages)
    checkpoints = []
    with ExitStack() as stack:
        for name in stages:
            directory = run_directory(config, run_name(config, name))
            job = describe(config, name, dataset, init_checkpoint(config, name))
            if is_done(config, name, job):
                print(f"Nothing to do: {directory.name} is trained already.", flush=True)
            else:
                client = tracking.connect(config)
                if config.stages[name].train.workers > 0:
                    stack.enter_context(connect())
                with lease(directory):
                    _run_stage(config, name, job, client)
            newest = ckpt.newest_checkpoint(directory)
            assert newest is not None
            checkpoints.append(newest)
    return checkpoints


def _run_stage(config: Config, name: str, job: dict[str, Any], client: "MlflowClient") -> None:
    train, full_name = config.stages[name].train, run_name(config, name)
    directory = run_directory(config, full_name)
    job["cuda"] = _use_cuda(train)
    print(stage_plan(config, name), flush=True)

    job["mlflow_uri"] = tracking.tracking_uri(config)
    open_run = tracking.open_run if state_of(directory) else tracking.new_run
    tags = {"srforge.stage": name, "srforge.manifest": job["identity"]["data"]}
    job["mlflow_run"] = open_run(client, config, full_name, tags)
    tracking.log_params(client, job["mlflow_run"], _parameters(config, name))
    status = "FAILED"
    try:
        if train.workers == 0:
            _train_here(job)
        else:
            _fit(job, train, full_name, resolve(config.run.storage))
        status = "FINISHED"
    finally:
        client.set_terminated(job["mlflow_run"], status)
    state = state_of(directory)
    assert state is not None
    print(f"Trained {full_name}: loss {state.metrics['train/loss']:.4f}", flush=True)


def _fit(job: dict[str, Any], train: TrainConfig, name: str, storage: Path) -> None:
    from ray.train import (
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _train_loop,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=train.workers,
            use_gpu=job["cuda"],
            resources_per_worker={"CPU": train.threads_per_worker, "GPU": int(job["cuda"])},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=train.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        causes = list(getattr(error, "worker_failures", {}).values()) or [error]
        cause = getattr(causes[0], "cause", None) or causes[0]
        raise UserError(
            f"training of '{name}' failed: {type(cause).__name__}: {cause} (the log above and "
            "Ray's dashboard have the details; the same command goes on from the last checkpoint)."
        ) from None


def _train_loop(job: dict[str, Any]) -> None:
    """What Ray Train runs on every worker."""
    from pipelines.training.worker import run_rank

    run_rank(job)


def _train_here(job: dict[str, Any]) -> None:
    """One rank in this process. (Ray Train's local mode would do the same, but takes the process
    group down after each stage, and DeepSpeed holds on to the first one it saw.)"""
    import torch.distributed as dist

    from pipelines.training.worker import run_rank

    if not dist.is_initialized():
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        store = tempfile.NamedTemporaryFile(prefix="srforge-")  # noqa: SIM115
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
    run_rank(job)


def _use_cuda(train: TrainConfig) -> bool:
    if train.workers == 0:
        return False
    import ray

    available = ray.cluster_resources().get("GPU", 0)
    if train.accelerator == "cuda" and available < train.workers:
        raise UserError(
            f"train.accelerator=cuda needs a GPU for each of {train.workers} workers, but the "
            f"cluster has {available:.0f}: set train.workers, or train.accelerator=cpu."
        )
    cuda = train.accelerator == "cuda" or (
        train.accelerator == "auto" and available >= train.workers
    )
    cores = ray.cluster_resources().get("CPU", 0)
    if not cuda and cores < train.workers * train.threads_per_worker:
        raise UserError(
            f"train.workers={train.workers} with train.threads_per_worker="
            f"{train.threads_per_worker} need {train.workers * train.threads_per_worker} CPU "
            f"cores, but the cluster has {cores:.0f}: set fewer."
        )
    return cuda


def _parameters(config: Config, name: str) -> dict[str, Any]:
    settings = to_dict(config)
    kept = {k: settings[k] for k in ("recipe", "seed", "data", "degradation", "networks")}
    return kept | {"stage": name} | {k: settings["stages"][name][k] for k in ("options", "train")}
