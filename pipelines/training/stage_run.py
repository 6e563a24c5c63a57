"""One execution of a stage: what it is made of, whether it is complete, and may be resumed."""

import math
from typing import Any

from pipelines.config.load import to_dict
from pipelines.config.schema import Config
from pipelines.data.dataset import Dataset
from pipelines.errors import Terminated, UserError
from pipelines.runs.checkpoint import MODEL, RESULT, STATE, Checkpoint, Checkpoints, RunState
from pipelines.runs.names import run_checkpoints, run_name
from srmodels.weights import pretrained, weights_folder

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
    "keep_best",
    "keep_every",
    "log_every",
    "validate_every",
    "validate_images",
    "validate_crop",
    "profile",
    "micro_batch_size",
    "activation_checkpointing",
    "channels_last",
    "compile",
    "max_skipped_steps",
    "max_failures",
}


def describe(
    config: Config, name: str, dataset: Dataset, init: Checkpoint | None
) -> dict[str, Any]:
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
        "initial weights": init.files[MODEL].sha256 if init else None,
    } | {f"train.{key}": value for key, value in train.items() if key not in _FREE}
    if train["schedule"] == "constant":
        # The cosine depends on how many steps there will be; a constant rate can go on for ever.
        del identity["train.steps"]
    return {
        "config": settings,
        "stage": name,
        "dataset": dataset,
        "checkpoints": run_checkpoints(config, run_name(config, name)),
        "init_checkpoint": init,
        "identity": identity,
        "pretrained": weights_folder(),
        "cuda": False,
    }


def is_done(config: Config, name: str, job: dict[str, Any]) -> bool:
    """Whether a stage's run has reached its steps, and its result is intact; says so if it has.

    Raises:
        UserError: there is a run of this name, but it was started with other settings.
    """
    train, full_name = config.stages[name].train, run_name(config, name)
    run: Checkpoints = job["checkpoints"]
    newest = run.newest_intact(STATE)
    if newest is not None and newest.state().step >= train.steps:
        newest = run.newest_intact(RESULT)
    if newest is None:
        return False
    state = newest.state()
    done = state.step >= train.steps
    check_resumable(
        full_name,
        state,
        job["identity"],
        state.zero_stage if done else train.zero_stage,
        accept_changed_data=train.accept_changed_data,
    )
    if state.step > train.steps:
        raise UserError(
            f"run '{full_name}' has {state.step} steps already, more than train.steps="
            f"{train.steps}: choose another run.name, or at least as many steps."
        )
    if done:
        print(f"Nothing to do: {run.name} is trained already.", flush=True)
    return done


def ended(config: Config, name: str, job: dict[str, Any]) -> None:
    """Says how a run went that has just ended in good order.

    Raises:
        Terminated: before its last step, because it was asked to.
    """
    run: Checkpoints = job["checkpoints"]
    newest, steps = run.newest(), config.stages[name].train.steps
    assert newest is not None
    if newest.step < steps:
        raise Terminated(
            f"{run.name} is saved at step {newest.step} of {steps}: start the same command again "
            "to go on."
        )
    # There is none where every step was skipped.
    loss = newest.state().metrics.get("train/loss", math.nan)
    print(f"Trained {run.name}: loss {loss:.4f}", flush=True)


def check_pretrained(config: Config, name: str) -> None:
    """Sees to it that the weights that a stage's losses need from elsewhere can be had.

    Raises:
        UserError: they cannot.
    """
    from pipelines.models.build import stage_on_meta

    try:
        weights_folder()  # also where nothing is needed of it: workers are told where it is
        for weights in stage_on_meta(config, name).pretrained_names():
            pretrained(weights)
    except ValueError as error:
        raise UserError(f"stage '{name}' cannot start: {error}") from None


def check_resumable(
    name: str,
    state: RunState,
    identity: dict[str, Any],
    zero_stage: int,
    *,
    accept_changed_data: bool = False,
) -> None:
    """Refuses to go on with other settings than a run was started with, or with another dataset
    unless that is accepted.

    Raises:
        UserError: names what differs.
    """
    differing = sorted(
        key
        for key in state.identity.keys() | identity.keys()
        if state.identity.get(key) != identity.get(key)
    )
    if differing == ["data"]:
        if not accept_changed_data:
            raise UserError(
                f"the dataset has changed since run '{name}' was started: set data= to the "
                f"manifest it knows, manifests/{state.manifest}.json of its dataset, or "
                "train.accept_changed_data=true to go on with the new one."
            )
        print(f"{name}: goes on with another dataset, {identity['data']}.", flush=True)
    elif differing:
        raise UserError(
            f"run '{name}' was started with other settings ({', '.join(differing)}): "
            "set another run.name, or delete its folder to start over."
        )
    if state.zero_stage != zero_stage:
        raise UserError(
            f"run '{name}' was started with train.zero_stage={state.zero_stage} and can only "
            "resume with the same: set it back, or choose another run.name."
        )
