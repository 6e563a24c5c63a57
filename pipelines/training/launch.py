"""Runs stages under Ray Train: checks everything on the driver, then starts or resumes the run."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipelines import tracking
from pipelines.cluster import connect
from pipelines.config import to_dict
from pipelines.data.manifest import Manifest
from pipelines.errors import UserError
from pipelines.schema import Config, TrainConfig
from pipelines.storage import file_sha256, resolve
from pipelines.training import checkpoint as ckpt
from pipelines.training.plan import run_directory, run_name, stage_plan

#: Settings of `train` that do not shape what is learned, so a resumed run may change them.
_FREE = {
    "steps",
    "workers",
    "threads_per_worker",
    "loader_threads",
    "accelerator",
    "zero_stage",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "max_failures",
}


def run_stages(config: Config, stages: Sequence[str]) -> list[Path]:
    """Trains stages in order; returns the final checkpoint of each.

    Stages that are complete are left alone, interrupted ones go on where they stopped.

    Raises:
        UserError: anything that can be known before training starts.
    """
    if not stages:
        raise UserError(f"recipe {config.recipe} has no stage for this job: see its YAML.")
    manifest = Manifest.load(resolve(config.data))
    for name in stages:
        _check_init(config, name, already_planned=stages)
    checkpoints = []
    with ExitStack() as stack:
        for name in stages:
            full_name = run_name(config, name)
            job = describe(config, name, manifest, _check_init(config, name))
            if not _done(config, name, job):
                if config.stages[name].train.workers > 0:
                    stack.enter_context(connect())
                _run_stage(config, name, job)
            else:
                print(f"Nothing to do: {full_name} is trained already.", flush=True)
            checkpoints.append(_newest(run_directory(config, full_name)))
    return checkpoints


def _done(config: Config, name: str, job: dict[str, Any]) -> bool:
    """Whether a run reached its steps. Refuses one that was started with other settings."""
    train, full_name = config.stages[name].train, run_name(config, name)
    state = _state(run_directory(config, full_name))
    if state is None:
        return False
    if state.step >= train.steps:
        workers, zero_stage = state.world_size, state.zero_stage
    else:
        workers, zero_stage = train.world_size, train.zero_stage
    ckpt.check_resumable(full_name, state, job["identity"], workers, zero_stage)
    return state.step >= train.steps


def _run_stage(config: Config, name: str, job: dict[str, Any]) -> None:
    train, full_name = config.stages[name].train, run_name(config, name)
    directory = run_directory(config, full_name)
    job["cuda"] = _use_cuda(train)
    print(stage_plan(config, name), flush=True)

    client = tracking.connect(config)
    job["mlflow_uri"] = tracking.tracking_uri(config)
    open_run = tracking.open_run if _state(directory) else tracking.new_run
    job["mlflow_run"] = open_run(
        client,
        config,
        full_name,
        {"srforge.stage": name, "srforge.manifest": job["identity"]["data"]},
    )
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
    newest = _newest(directory)
    loss = ckpt.load_state(newest).metrics["train/loss"]
    print(f"Trained {full_name}: loss {loss:.4f}, checkpoint {newest}", flush=True)


def describe(config: Config, name: str, manifest: Manifest, init: Path | None) -> dict[str, Any]:
    """What a worker needs to know, in plain values and absolute paths: workers run elsewhere."""
    settings = to_dict(config)
    train = settings["stages"][name]["train"]
    identity = {
        "seed": config.seed,
        "data": manifest.digest,
        "degradation": settings["degradation"],
        "networks": settings["networks"],
        "options": settings["stages"][name]["options"],
        "initial weights": file_sha256(init / "model.safetensors") if init else None,
    } | {f"train.{key}": value for key, value in train.items() if key not in _FREE}
    return {
        "config": settings,
        "stage": name,
        "data_directory": str(resolve(config.data)),
        "run_directory": str(run_directory(config, run_name(config, name))),
        "init_checkpoint": str(init) if init else None,
        "identity": identity,
        "cuda": False,
    }


def _fit(job: dict[str, Any], train: TrainConfig, name: str, storage: Path) -> None:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
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
    trainer.fit()


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


def _check_init(config: Config, name: str, already_planned: Sequence[str] = ()) -> Path | None:
    """The checkpoint a stage starts from; None if it starts from scratch, or from a stage that
    this job is going to run first."""
    before = config.stages[name].init_from
    if before is None or before in already_planned:
        return None
    checkpoint = _finished(config, before)
    if checkpoint is None:
        raise UserError(
            f"stage '{name}' starts from stage '{before}', but run '{run_name(config, before)}' "
            f"in {resolve(config.run.storage)} is not complete: run jobs/train.py stage={before} "
            "first, with the same run.name."
        )
    return checkpoint


def _finished(config: Config, name: str) -> Path | None:
    """The final checkpoint of a stage's run, if it reached its steps."""
    directory = run_directory(config, run_name(config, name))
    state = _state(directory)
    done = state is not None and state.step >= config.stages[name].train.steps
    return _newest(directory) if done else None


def _state(run: Path) -> ckpt.RunState | None:
    newest = ckpt.newest_checkpoint(run)
    return ckpt.load_state(newest) if newest else None


def _newest(run: Path) -> Path:
    newest = ckpt.newest_checkpoint(run)
    assert newest is not None
    return newest


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
