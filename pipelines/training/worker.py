"""Runs one rank of a stage's run: builds its engine, stream and callbacks, and starts the loop."""

import importlib
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import ninja
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.data.stream import Batch, CropSettings, TrainingStream, to_unit
from pipelines.runs.checkpoint import Checkpoint, Checkpoints
from pipelines.training.preemption import Notice
from pipelines.training.stage_run import StageRun
from srmodels.compression.structure import structure_of
from srmodels.weights import FOLDER

if TYPE_CHECKING:
    from pipelines.training.recorder import Recorder

#: Seconds that the end of a run waits for records that have not reached MLflow.
PATIENCE_S = 120.0


def run_rank(
    run: StageRun,
    *,
    notice: Callable[[], Notice],
    on_start: Callable[[int], None] = lambda step: None,
) -> None:
    """Trains or resumes a run on this rank. It needs an initialised process group.

    Args:
        notice: returns the strongest notice to this rank so far, without waiting.
        on_start: called on rank 0 with the number of steps that are done already.

    Raises:
        UserError: the run cannot go on; perhaps not every rank raises it.
    """
    config, train = run.config, run.train
    device = torch.device("cuda", torch.cuda.current_device()) if run.cuda else torch.device("cpu")
    prepare_deepspeed(device)
    if run.weights_folder is not None:
        # A cluster's workers do not have the environment of the job.
        os.environ[FOLDER] = str(run.weights_folder)
    from pipelines.training.build import build_engine
    from pipelines.training.callbacks.build import Rank, make_callbacks
    from pipelines.training.loop import train as run_loop

    attempt, resume = _agree(run.checkpoints)
    first_step = resume.step if resume else 0
    if dist.get_rank() == 0:
        on_start(first_step)
        if resume:
            where = f"{first_step} of {train.steps} from {resume.location}"
            print(f"{run.stage}: resuming at step {where}", flush=True)
        if train.replay is not None:
            print(f"{run.stage}: {_described(run)}", flush=True)
    teacher = run.teacher.load(device) if run.teacher else None
    if resume:
        run = run.with_structure(structure_of(resume.state().networks))
    engine, ema = build_engine(
        run.config,
        run.stage,
        device,
        start=run.start,
        resume=resume,
        teacher=teacher,
        samples=partial(_first_samples, run, device),
    )
    run = run.with_structure(engine.stage.network.structure)
    stream = TrainingStream(
        run.dataset,
        CropSettings.of(config, train),
        seed=config.seed,
        batch_size=train.batch_size,
        replay=run.replay,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        start_step=first_step,
        processes=train.loader_processes,
    )
    recorder = _recorder(run, first_step) if dist.get_rank() == 0 else None
    with _counting(run), closing(recorder) if recorder else nullcontext():
        state = resume.state() if resume else None
        rank = Rank(run, engine, ema, state, attempt, recorder, notice)
        callbacks = make_callbacks(rank)
        run_loop(engine, stream, callbacks, first_step=first_step, steps=train.steps)


def _first_samples(run: StageRun, device: torch.device, number: int) -> tuple[Tensor, Tensor]:
    """Returns the LR and HR crops of the first training samples, the same on every rank."""
    crops, seed = CropSettings.of(run.config, run.train), run.config.seed
    stream = TrainingStream(run.dataset, crops, seed=seed, batch_size=number, replay=run.replay)
    with closing(cast(Generator[Batch, None, None], iter(stream))) as batches:
        batch = next(batches)
    return to_unit(batch.x_l, device), to_unit(batch.x_h, device)


def _described(run: StageRun) -> str:
    """Says what `train.replay` does to a run."""
    if run.replay is None:
        return (
            "train.replay has nothing to mix, since the dataset does not hold both photos that the "
            "starting weights were trained on and others. All photos come equally often."
        )
    manifest = run.dataset.manifest
    earlier = sum(len(manifest.shards[number]) for number in run.replay.earlier)
    return (
        f"{run.replay.share:.0%} of the samples come from {earlier} earlier training tiles, the "
        f"others from {manifest.num_samples('train') - earlier} new ones"
    )


def _agree(checkpoints: Checkpoints) -> tuple[str, Checkpoint | None]:
    """Returns this attempt's token and the checkpoint to resume from. Rank 0 decides for all."""
    decided: list[Any] = [None, None]
    if dist.get_rank() == 0:
        decided = [uuid.uuid4().hex[:8], checkpoints.newest_intact()]
    dist.broadcast_object_list(decided)
    return decided[0], decided[1]


def _in_ray() -> bool:
    """Returns True if Ray has started this process, or this process Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _counting(run: StageRun) -> AbstractContextManager[None]:
    if not _in_ray():
        return nullcontext()
    from pipelines.training.ray_counters import counting

    return counting(run)


def _recorder(run: StageRun, first_step: int) -> "Recorder":
    if not _in_ray():
        return _lasting_recorder(run)
    from pipelines.training.ray_recorder import RayRecorder
    from pipelines.training.recorder import Recorders

    return Recorders(_lasting_recorder(run), RayRecorder.of(run, first_step))


def _lasting_recorder(run: StageRun) -> "Recorder":
    """Returns what keeps the records: MLflow, or a file."""
    if run.tracked is None:
        from pipelines.training.recorder import JSONLinesRecorder

        return JSONLinesRecorder(run.checkpoints.workspace / "metrics.jsonl")
    from pipelines.training.mlflow_recorder import MLflowRecorder

    return MLflowRecorder(run.tracked.uri, run.tracked.run_id, patience_s=PATIENCE_S)


def prepare_deepspeed(device: torch.device) -> None:
    """Imports DeepSpeed in an environment that suits it.

    DeepSpeed picks its accelerator when it is imported. It builds a small extension with ninja,
    which is not on the PATH of a virtual environment that is not activated. Its autotuner, which
    nobody uses here, imports MLflow where that is installed: that would take longer than all the
    rest, in every rank.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ["PATH"] = f"{ninja.BIN_DIR}{os.pathsep}{os.environ.get('PATH', '')}"
    # DeepSpeed calls collectives by names that torch deprecates.
    warnings.filterwarnings("ignore", message=".*is deprecated.*_single", category=FutureWarning)
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("deepspeed")
    finally:
        if hidden:
            del sys.modules["mlflow"]
