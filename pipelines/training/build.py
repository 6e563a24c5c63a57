"""Builds a stage with its engine and averages: anew, from a checkpoint, or to resume a run."""

import shutil
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.runs.checkpoint import Checkpoint
from pipelines.training.ema import EMA
from pipelines.training.engine import Engine
from pipelines.training.universal import universal_copy
from srmodels.optimizers import OPTIMIZERS
from srmodels.stage import Stage
from srmodels.system import load_system

#: A number of samples → their crops x_l and x_h, see `Stage.start`.
Samples = Callable[[int], tuple[Tensor, Tensor]]


def build_stage(
    config: Config,
    name: str,
    weights: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
) -> Stage:
    """Builds a stage in train mode.

    Args:
        weights: every weight of its networks; None: random weights from the configured seed.
        teacher: the module that the stage learns from, for a stage that takes one.

    Raises:
        UserError: pretrained weights that the losses need cannot be found.
    """
    system, stage = load_system(config.system), config.stages[name]
    torch.manual_seed(config.seed)
    network = system.build(stage.networks)
    if weights is not None:
        network.load_state_dict(weights)
    built = system.stage(stage.kind)(network, stage.options).train()
    if teacher is not None:
        built.learn_from(teacher)
    try:
        built.load_pretrained()
    except ValueError as error:
        raise UserError(f"stage '{name}' cannot start: {error}") from None
    return built


def build_engine(
    config: Config,
    name: str,
    device: torch.device,
    *,
    start: Checkpoint | None = None,
    resume: Checkpoint | None = None,
    teacher: nn.Module | None = None,
    samples: Samples | None = None,
) -> tuple[Engine, EMA]:
    """Builds the engine of a stage and the averages of its trained weights.

    Every rank must call it.

    Args:
        start: the checkpoint that the stage starts from, by its averaged weights.
        resume: the checkpoint of this run that it goes on from. Another number of ranks may have
            written it.
        teacher: a module on `device`, for a stage that takes one.
        samples: returns the LR and HR crops of so many of the first training samples, on `device`;
            for a new run of a stage that looks at some.

    Raises:
        UserError: pretrained weights that the losses need cannot be found, the networks cannot be
            prepared as the stage's options say, or the optimizer's state cannot be shared out
            among another number of ranks.
    """
    train = config.stages[name].train
    universal = False
    if resume is not None and train.zero_stage > 0:
        ranks = resume.state().world_size
        universal = ranks != dist.get_world_size()
        if universal and not OPTIMIZERS[train.optimizer].can_be_reshaped:
            raise UserError(
                f"run '{resume.run.name}' was trained by {ranks} workers, and under ZeRO "
                f"{train.zero_stage} the state of optimizer={train.optimizer} cannot be shared out "
                f"among {dist.get_world_size()}: set train.workers={ranks}."
            )
    weights = None
    if resume is not None:
        weights = resume.live_weights()
    elif start is not None:
        weights = start.weights()
    stage = build_stage(config, name, weights, teacher).to(device)
    _prepare(name, stage, samples, anew=resume is None)
    engine = Engine(stage, train, device, universal=universal)
    ema = EMA(engine.averaged, train.ema_half_life)
    if resume is not None:
        _load(engine, resume, universal=universal)
        ema.load_state_dict(resume.ema())
    return engine, ema


def _prepare(name: str, stage: Stage, samples: Samples | None, *, anew: bool) -> None:
    """Starts a new run of a stage, and prepares a new or a resumed one; rank 0 says how."""
    none = torch.empty(0, 3, 1, 1)
    number = stage.num_samples if anew else 0
    x_l, x_h = samples(number) if samples and number else (none, none)
    try:
        lines = [*(stage.start(x_l, x_h) if anew else ()), *stage.prepare()]
    except ValueError as error:
        raise UserError(f"stage '{name}' cannot start: {error}") from None
    if dist.get_rank() == 0:
        for line in lines:
            print(f"{name}: {line}", flush=True)


def _load(engine: Engine, checkpoint: Checkpoint, *, universal: bool) -> None:
    folder = checkpoint.local(tuple(f"{tag}/" for tag in engine.tags))
    if not universal:
        return engine.load(folder)
    name = f"{checkpoint.run.name}-{checkpoint.folder}"
    copy = universal_copy(folder, engine.tags, checkpoint.run.scratch.path / "universal" / name)
    engine.load(copy)
    dist.barrier()
    shutil.rmtree(copy, ignore_errors=True)
