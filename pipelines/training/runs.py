"""What runs there are on disk: whether one is complete, may be resumed, or can start another."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipelines.config import to_dict
from pipelines.data.dataset import Dataset
from pipelines.errors import UserError
from pipelines.schema import Config
from pipelines.storage import file_sha256
from pipelines.training import checkpoint as ckpt
from pipelines.training.plan import run_directory, run_name

#: Settings of `train` that do not shape what is learned, so a resumed run may change them.
_FREE = {
    "workers",
    "threads_per_worker",
    "loader_processes",
    "accept_changed_data",
    "accelerator",
    "zero_stage",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "max_failures",
}


def describe(config: Config, name: str, dataset: Dataset, init: Path | None) -> dict[str, Any]:
    """What a worker needs to know. Paths are absolute, since workers run elsewhere; those of the
    configuration stay as they were written, since it ends up in checkpoints and bundles."""
    settings = to_dict(config)
    train = settings["stages"][name]["train"]
    identity = {
        "seed": config.seed,
        "data": dataset.manifest.digest,
        "order": {name: settings["stream"][name] for name in ("window", "lanes")},
        "degradation": settings["degradation"],
        "networks": settings["networks"],
        "options": settings["stages"][name]["options"],
        "initial weights": file_sha256(init / "model.safetensors") if init else None,
    } | {f"train.{key}": value for key, value in train.items() if key not in _FREE}
    if train["schedule"] == "constant":
        # The cosine depends on how many steps there will be; a constant rate can go on for ever.
        del identity["train.steps"]
    return {
        "config": settings,
        "stage": name,
        "dataset": dataset,
        "run_directory": str(run_directory(config, run_name(config, name))),
        "init_checkpoint": str(init) if init else None,
        "identity": identity,
        "cuda": False,
    }


def state_of(run: Path) -> ckpt.RunState | None:
    """The state of a run's newest complete checkpoint, if it has one."""
    newest = ckpt.newest_checkpoint(run)
    return ckpt.load_state(newest) if newest else None


def is_done(config: Config, name: str, job: dict[str, Any]) -> bool:
    """Whether a stage's run has reached its steps.

    Raises:
        UserError: there is a run of this name, but it was started with other settings.
    """
    train, full_name = config.stages[name].train, run_name(config, name)
    state = state_of(Path(job["run_directory"]))
    if state is None:
        return False
    done = state.step >= train.steps
    workers = state.world_size if done else train.world_size
    zero_stage = state.zero_stage if done else train.zero_stage
    ckpt.check_resumable(
        full_name,
        state,
        job["identity"],
        workers,
        zero_stage,
        accept_changed_data=train.accept_changed_data,
    )
    if state.step > train.steps:
        raise UserError(
            f"run '{full_name}' has {state.step} steps already, more than train.steps="
            f"{train.steps}: choose another run.name, or at least as many steps."
        )
    return done


def init_checkpoint(config: Config, name: str, planned: Sequence[str] = ()) -> Path | None:
    """The checkpoint a stage starts from; None if it starts from scratch, or from a stage of
    `planned`, which the same job is going to run first.

    Raises:
        UserError: the stage before is not complete, or has other networks.
    """
    before = config.stages[name].init_from
    if before is None or before in planned:
        return None
    directory = run_directory(config, run_name(config, before))
    state = state_of(directory)
    # Complete means: it reached the steps that it was started for.
    if state is None or state.step < state.config["stages"][before]["train"]["steps"]:
        raise UserError(
            f"stage '{name}' starts from stage '{before}', but run '{directory.name}' in "
            f"{directory.parent} is not complete: run jobs/train.py stage={before} first, with "
            "the same run.name."
        )
    if state.identity["networks"] != to_dict(config)["networks"]:
        raise UserError(
            f"stage '{name}' starts from run '{directory.name}', which has other networks: set "
            "networks.* as they were there, or train that stage again under another run.name."
        )
    return ckpt.newest_checkpoint(directory)


@contextmanager
def lease(run: Path) -> Iterator[None]:
    """Nobody else trains this run meanwhile; the lease ends with the process at the latest.

    Raises:
        UserError: another process trains it.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"run '{run.name}' is being trained by another job: wait for it, stop it, or choose "
            "another run.name."
        ) from None
    try:
        yield
    finally:
        lock.release()
