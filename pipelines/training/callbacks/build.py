"""Builds the callbacks of a rank from the settings of its run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.distributed as dist

from pipelines.config.load import to_dict
from pipelines.runs.checkpoint import RunState
from pipelines.runs.writer import CheckpointWriter, Retention
from pipelines.training.callbacks.checkpointing import CheckpointCallback
from pipelines.training.callbacks.ema import EMACallback
from pipelines.training.callbacks.guard import NonFiniteGuard
from pipelines.training.callbacks.metrics import MetricsCallback
from pipelines.training.callbacks.preemption import PreemptionCallback
from pipelines.training.callbacks.profiler import ProfilerCallback
from pipelines.training.callbacks.progress import ProgressCallback
from pipelines.training.callbacks.validation import ValidationCallback
from pipelines.training.cost import training_cost
from pipelines.training.ema import EMA
from pipelines.training.engine import Engine
from pipelines.training.hardware import peak_flops
from pipelines.training.loop import Callback
from pipelines.training.preemption import Notice
from pipelines.training.recorder import Recorder
from pipelines.training.stage_run import StageRun


@dataclass(frozen=True)
class Rank:
    """One rank of a run, as its callbacks see it.

    Attributes:
        resumed: the state of the checkpoint that the run goes on from; None for a new run.
        attempt: the token of this attempt, see `runs.writer`.
        recorder: None on all ranks but 0.
        notice: returns the last notice that this rank was given, see `preemption`.
    """

    run: StageRun
    engine: Engine
    ema: EMA
    resumed: RunState | None
    attempt: str
    recorder: Recorder | None
    notice: Callable[[], Notice]

    @property
    def first_step(self) -> int:
        """The number of steps that are done when this process takes over."""
        return self.resumed.step if self.resumed else 0

    @property
    def skipped(self) -> int:
        """The number of steps of the run that were skipped before."""
        return int(self.resumed.metrics.get("steps/skipped", 0)) if self.resumed else 0


def make_callbacks(rank: Rank) -> list[Callback]:
    """Builds the callbacks in their order: those that measure come before those that save."""
    train = rank.run.train
    metrics = _metrics(rank)
    validation = _validation(rank) if train.validate_every else None
    saving = _saving(rank, metrics, validation)
    chosen = [
        NonFiniteGuard(train.max_skipped_steps, rank.skipped),
        EMACallback(rank.ema),
        metrics,
        validation,
        saving,
        PreemptionCallback(rank.notice, saving.save),
        *_for_people(rank),
    ]
    return [callback for callback in chosen if callback is not None]


def _metrics(rank: Rank) -> MetricsCallback:
    run, train = rank.run, rank.run.train
    peak = peak_flops(rank.engine.device, train.precision)
    return MetricsCallback(
        rank.recorder,
        rank.engine,
        every=train.log_every,
        batch_size=train.batch_size,
        steps=train.steps,
        skipped=rank.skipped,
        flops_per_sample=_model_flops(run) if peak else None,
        peak_flops=peak,
    )


def _model_flops(run: StageRun) -> int:
    return training_cost(run.config, run.stage, run.teacher).model_flops


def _validation(rank: Rank) -> ValidationCallback:
    return ValidationCallback(
        rank.engine.stage,
        rank.run.config,
        rank.run.train,
        rank.run.dataset,
        averaged=rank.ema.applied,
        recorder=rank.recorder,
        device=rank.engine.device,
    )


def _saving(
    rank: Rank, metrics: MetricsCallback, validation: ValidationCallback | None
) -> CheckpointCallback:
    run, train, policy = rank.run, rank.run.train, rank.run.config.stream.policy

    def make_state(step: int) -> RunState:
        return RunState(
            step=step,
            samples=step * train.batch_size,
            world_size=dist.get_world_size(),
            zero_stage=train.zero_stage,
            seed=run.config.seed,
            manifest=run.dataset.manifest.digest,
            identity=run.identity,
            metrics=metrics.last,
            score=validation.score_at(step) if validation else None,
            config=to_dict(run.config),
            stage=run.stage,
            networks=asdict(run.config.stages[run.stage].networks),
            parent_version=run.parent_version,
        )

    writer = CheckpointWriter(
        run.checkpoints,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        attempt=rank.attempt,
        retention=Retention(train.keep_checkpoints, train.keep_best, train.keep_every),
        policy=policy,
    )
    return CheckpointCallback(writer, rank.engine, rank.ema, train, make_state, policy=policy)


def _for_people(rank: Rank) -> list[Callback]:
    """Builds rank 0's progress bar, and its profiler if the settings ask for one."""
    run, train, device = rank.run, rank.run.train, rank.engine.device
    if rank.recorder is None:
        return []
    bar = ProgressCallback(run.stage, rank.first_step, train.steps, train.batch_size, device)
    if train.profile is None:
        return [bar]
    profiler = ProfilerCallback(
        *train.profile,
        folder=run.checkpoints.workspace / "profile",
        recorder=rank.recorder,
        start_step=rank.first_step,
        device=device,
    )
    return [bar, profiler]
