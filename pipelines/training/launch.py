"""Runs stages under Ray Train: checks everything on the driver, then starts or resumes each run."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines import tracking
from pipelines.cluster import connect
from pipelines.config.load import to_dict
from pipelines.config.schema import Config, TrainConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import check_crop
from pipelines.errors import UserError
from pipelines.runs.checkpoint import Checkpoint
from pipelines.runs.lease import lease, of_run
from pipelines.storage.paths import resolve
from pipelines.training.local import train_here
from pipelines.training.plan import chosen_stage, stage_plan
from pipelines.training.preemption import Meter, on_sigterm
from pipelines.training.stage_run import StageRun, Tracked, check_pretrained, ended, is_done
from pipelines.training.start import start_checkpoint
from pipelines.training.teacher import find_teacher
from pipelines.training.witnesses import Witnesses, witnesses

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run_stages(config: Config, stages: Sequence[str], meter: Meter = Meter()) -> list[Checkpoint]:
    """Trains stages in order, and returns the last checkpoint of each.

    A complete stage is left alone. An interrupted one goes on where it stopped.

    Args:
        meter: counts what the trainings use, and may end them.

    Raises:
        UserError: a stage cannot start, or its training failed.
        Terminated: SIGTERM came, or the meter stopped it, and the work is saved.
    """
    if not stages:
        raise UserError(f"recipe {config.recipe} has no stage for this job: see its YAML.")
    dataset = open_dataset(config.data, config.stream)
    for name in stages:
        check_crop(dataset, config.stages[name].train.crop)
    check_sources(config, stages)
    checkpoints = []
    with ExitStack() as stack:
        for name in stages:
            start, teacher = start_checkpoint(config, name), find_teacher(config, name)
            run = StageRun.of(config, name, dataset, start, teacher)
            if not is_done(run):
                meter.admit(run.name)
                client = tracking.connect(config.mlflow)
                if run.train.max_workers > 0:
                    stack.enter_context(connect())
                with lease(run.checkpoints.store, of_run(run.name)):
                    run.checkpoints.sweep()
                    _run_stage(run, client, meter)
            newest = run.checkpoints.newest()
            assert newest is not None
            checkpoints.append(newest)
    return checkpoints


def check_sources(config: Config, stages: Sequence[str]) -> None:
    """Finds the weights that each stage will need, before the first of the stages is trained.

    Raises:
        UserError: weights are missing, or a stage needs another one that does not come before it.
    """
    for place, name in enumerate(stages):
        check_pretrained(config, name)
        start_checkpoint(config, name, planned=stages[:place])
        find_teacher(config, name, planned=stages[:place])


def run_chosen_stage(config: Config, meter: Meter = Meter()) -> list[Checkpoint]:
    """Trains `stage`, see `run_stages`; raises UserError if that is not set."""
    return run_stages(config, [chosen_stage(config)], meter)


def _run_stage(run: StageRun, client: "MlflowClient", meter: Meter) -> None:
    config, cuda = run.config, _use_cuda(run.train)
    print(stage_plan(config, run.stage, run.teacher), flush=True)

    open_run = tracking.open_run if run.checkpoints.newest() else tracking.new_run
    tags = {"srmill.stage": run.stage, "srmill.manifest": run.identity["data"]}
    if run.parent_version:
        tags["srmill.parent_version"] = run.parent_version
    run_id = open_run(client, config, run.name, tags)
    run = replace(run, cuda=cuda, tracked=Tracked(tracking.tracking_uri(config.mlflow), run_id))
    with tracking.active_run(client, run_id):
        tracking.log_params(client, run_id, _parameters(config, run.stage))
        if run.train.max_workers == 0:
            train_here(run, meter)
        else:
            with witnesses(run) as seen:
                _fit(run, seen, meter)
        ended(run)


def _fit(run: StageRun, seen: Witnesses, meter: Meter) -> None:
    """Trains on the cluster. After SIGTERM, or when the meter says so, the run saves its work and
    ends.

    Args:
        seen: what the workers must see before they train.

    Raises:
        UserError: the training failed, and another attempt would not help.
    """
    import ray
    from ray.train import (
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pipelines.training.supervisor import Supervisor, train_loop

    train = run.train
    # Beside the driver, where Ray Train's controller is too: any other node may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    supervisor = ray.remote(num_cpus=0, scheduling_strategy=here)(Supervisor).remote(
        train.max_failures
    )
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"run": run, "supervisor": supervisor, "witnesses": seen},
        scaling_config=ScalingConfig(
            num_workers=tuple(train.workers) if isinstance(train.workers, list) else train.workers,
            use_gpu=run.cuda,
            resources_per_worker={"CPU": train.threads_per_worker, "GPU": int(run.cuda)},
        ),
        run_config=RunConfig(
            name=run.name,
            # Ray keeps notes of its own there; checkpoints are ours, in `run.storage`.
            storage_path=str(resolve("work/ray")),
            # Whether another attempt makes sense is the supervisor's to say.
            failure_config=FailureConfig(max_failures=-1),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    stop, cores = supervisor.request_stop.remote, train.max_workers * train.threads_per_worker
    with (
        on_sigterm(stop),
        meter.training(train.max_workers if run.cuda else 0, cores, stop),
    ):
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise UserError(
                f"training of '{run.name}' failed: {error} (the log above and Ray's dashboard have "
                "the details; the same command goes on from the last checkpoint)."
            ) from None
        if failure := ray.get(supervisor.why_failed.remote()):
            raise UserError(f"training of '{run.name}' failed: {failure}")


def _use_cuda(train: TrainConfig) -> bool:
    if train.max_workers == 0:
        return False
    import ray

    workers = train.min_workers
    available = ray.cluster_resources().get("GPU", 0)
    if train.accelerator == "cuda" and available < workers:
        raise UserError(
            f"train.accelerator=cuda needs a GPU for each of {workers} workers, but the "
            f"cluster has {available:.0f}: set train.workers, or train.accelerator=cpu."
        )
    cuda = train.accelerator == "cuda" or (train.accelerator == "auto" and available >= workers)
    cores = ray.cluster_resources().get("CPU", 0)
    if not cuda and cores < workers * train.threads_per_worker:
        raise UserError(
            f"train.workers={workers} with train.threads_per_worker="
            f"{train.threads_per_worker} need {workers * train.threads_per_worker} CPU "
            f"cores, but the cluster has {cores:.0f}: set fewer."
        )
    return cuda


def _parameters(config: Config, name: str) -> dict[str, Any]:
    settings = to_dict(config)
    kept = {k: settings[k] for k in ("recipe", "seed", "data", "degradation")}
    own = ("networks", "teacher", "options", "train")
    return kept | {"stage": name} | {k: settings["stages"][name][k] for k in own}
