"""Describes one execution of a stage; tells whether it is complete and whether it can resume."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.config.load import to_dict
from pipelines.config.schema import Config, TrainConfig
from pipelines.data.dataset import Dataset
from pipelines.data.replay import Replay, earlier_shards
from pipelines.errors import Terminated, UserError, listing
from pipelines.models.build import stage_on_meta, with_structure
from pipelines.runs.checkpoint import MODEL, RESULT, STATE, Checkpoint, Checkpoints, RunState
from pipelines.runs.names import run_checkpoints, run_name
from pipelines.training.teacher import Teacher
from srmodels.compression.structure import structure_of
from srmodels.weights import pretrained, weights_folder

#: Settings of `train` that do not shape the result, so that a resumed run may change them.
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


@dataclass(frozen=True)
class Tracked:
    """The MLflow run that a stage's run reports to."""

    # Ray keeps the text of what workers are given, and an address may hold a password.
    uri: str = field(repr=False)
    run_id: str


@dataclass(frozen=True)
class StageRun:
    """One execution of a stage, as the driver hands it to every rank; can be pickled.

    Its paths are absolute, since workers run in other directories, or are a `NodeFolder`. Only the
    configuration keeps its paths as the user wrote them, since checkpoints and bundles hold it.

    Attributes:
        stage: the stage's name in the recipe.
        checkpoints: the checkpoints of the run.
        start: the checkpoint that the run starts from; None: random weights.
        teacher: the teacher that the stage learns from; None: it learns from none.
        identity: every setting that shapes the result, see `RunState`.
        weights_folder: folder of pretrained weights; None: torch hub's cache, or the web.
        replay: the part of the dataset that takes turns with the rest; None: there is no such part.
        parent_version: the registered version that the weights descend from, see `Provenance`.
        cuda: whether the ranks train on GPUs.
        tracked: None for a run without MLflow.
    """

    config: Config
    stage: str
    dataset: Dataset
    checkpoints: Checkpoints
    start: Checkpoint | None
    teacher: Teacher | None
    identity: dict[str, Any]
    weights_folder: Path | None
    replay: Replay | None = None
    parent_version: str | None = None
    cuda: bool = False
    tracked: Tracked | None = None

    @property
    def train(self) -> TrainConfig:
        """The stage's training settings."""
        train: TrainConfig = self.config.stages[self.stage].train
        return train

    @property
    def name(self) -> str:
        """The run's name."""
        return self.checkpoints.name

    def with_structure(self, structure: Mapping[str, Any]) -> "StageRun":
        """Returns this run with networks that compression changed so (`structure_of`)."""
        return replace(self, config=with_structure(self.config, self.stage, structure))

    @classmethod
    def of(
        cls,
        config: Config,
        stage: str,
        dataset: Dataset,
        start: Checkpoint | None,
        teacher: Teacher | None,
    ) -> "StageRun":
        """Describes the run of a stage of this configuration.

        Networks that the stage starts from may be narrower than the configuration's: it takes their
        structure.
        """
        if start is not None:
            config = with_structure(config, stage, structure_of(start.state().networks))
        identity = identity_of(config, stage, dataset, start, teacher)
        return cls(
            config=config,
            stage=stage,
            dataset=dataset,
            checkpoints=run_checkpoints(config, run_name(config, stage)),
            start=start,
            teacher=teacher,
            identity=identity,
            weights_folder=weights_folder(),
            replay=_replay(config.stages[stage].train, dataset, identity["replayed"]),
            parent_version=start.state().parent_version if start else None,
        )


def identity_of(
    config: Config,
    stage: str,
    dataset: Dataset,
    start: Checkpoint | None = None,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Returns every setting that shapes the result of a stage's run."""
    settings = to_dict(config)
    own = settings["stages"][stage]
    identity = {
        "seed": config.seed,
        "data": dataset.manifest.digest,
        "order": {name: settings["stream"][name] for name in ("window", "lanes")},
        "degradation": settings["degradation"],
        "networks": own["networks"],
        "options": own["options"],
        "initial weights": start.files[MODEL].sha256 if start else None,
        "teacher": teacher.identity if teacher else None,
        "replayed": _replayed(config.stages[stage].train, dataset, start),
    } | {f"train.{key}": value for key, value in own["train"].items() if key not in _FREE}
    groups = own["train"]["groups"].values()
    if {own["train"]["schedule"], *(group["schedule"] for group in groups)} <= {"constant", None}:
        # Constant rates can go on for ever. The other schedules need the number of steps.
        del identity["train.steps"]
    return identity


def _replayed(train: TrainConfig, dataset: Dataset, start: Checkpoint | None) -> str | None:
    """Returns the digest of the manifest that the starting weights were trained on, if
    `train.replay` asks for it.

    A stage that starts from another stage on the same dataset replays what that one replayed.
    """
    if train.replay is None or start is None:
        return None
    state = start.state()
    if state.manifest == dataset.manifest.digest:
        return state.identity.get("replayed") or state.manifest
    return state.manifest


def _replay(train: TrainConfig, dataset: Dataset, replayed: str | None) -> Replay | None:
    """Returns the part of the dataset that is replayed; None if that is all of it, or nothing.

    Args:
        replayed: as `_replayed` returns it.
    """
    if train.replay is None or replayed is None:
        return None
    earlier = earlier_shards(dataset, replayed)
    if not 0 < len(earlier) < len(dataset.manifest.shard_numbers("train")):
        return None
    return Replay(train.replay, earlier)


def is_done(run: StageRun) -> bool:
    """Tells whether a run has reached its steps with an intact result; prints a line if it has.

    Raises:
        UserError: the run was started with other settings, or has more steps already.
    """
    train, checkpoints = run.train, run.checkpoints
    newest = checkpoints.newest_intact(STATE)
    if newest is not None and newest.state().step >= train.steps:
        newest = checkpoints.newest_intact(RESULT)
    if newest is None:
        return False
    state = newest.state()
    done = state.step >= train.steps
    check_resumable(
        run.name,
        state,
        run.identity,
        state.zero_stage if done else train.zero_stage,
        accept_changed_data=train.accept_changed_data,
    )
    if state.step > train.steps:
        raise UserError(
            f"run '{run.name}' has {state.step} steps already, more than train.steps="
            f"{train.steps}: choose another run.name, or at least as many steps."
        )
    if done:
        print(f"Nothing to do: {run.name} is trained already.", flush=True)
    return done


def ended(run: StageRun) -> None:
    """Prints the result of a run that has just ended without a failure.

    Raises:
        Terminated: the run was asked to end before its last step.
    """
    newest, steps = run.checkpoints.newest(), run.train.steps
    assert newest is not None
    if newest.step < steps:
        raise Terminated(
            f"{run.name} is saved at step {newest.step} of {steps}: start the same command again "
            "to go on."
        )
    # There is no loss where every step was skipped.
    loss = newest.state().metrics.get("train/loss", math.nan)
    print(f"Trained {run.name}: loss {loss:.4f}", flush=True)


def check_pretrained(config: Config, name: str) -> None:
    """Checks that the pretrained weights that a stage's losses need can be found.

    Raises:
        UserError: some of them cannot be found.
    """
    try:
        weights_folder()  # Checked even where no weights are needed: every worker gets it.
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
    """Refuses to resume a run with other settings than it was started with.

    Args:
        state: the state of the run's newest checkpoint.
        identity: the settings that shape the result now.
        accept_changed_data: whether the run may go on with another dataset.

    Raises:
        UserError: the settings differ; the message names them.
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
            f"run '{name}' was started with other settings ({listing(differing)}): "
            "set another run.name, or delete its folder to start over."
        )
    if state.zero_stage != zero_stage:
        raise UserError(
            f"run '{name}' was started with train.zero_stage={state.zero_stage} and can only "
            "resume with the same: set it back, or choose another run.name."
        )
