"""Keeps weights from outside the project as a checkpoint at step 0 of a run of their own.

Workers fetch this checkpoint like any other. They need no access to the hub, folder or registry
that the weights came from.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from filelock import FileLock
from torch import Tensor

from pipelines.config.load import to_dict
from pipelines.config.schema import Config
from pipelines.runs.checkpoint import RESULT, Checkpoint, RunState
from pipelines.runs.marker import DamagedError
from pipelines.runs.names import run_checkpoints
from pipelines.runs.writer import CheckpointWriter, Retention, write_weights
from pipelines.storage.digests import digest
from pipelines.storage.paths import resolve


def keep_weights(
    config: Config,
    name: str,
    *,
    stage: str,
    described_by: Config,
    asked: dict[str, Any],
    content: Any,
    parent_version: str | None = None,
    manifest: str = "",
    make: Callable[[], dict[str, Tensor]],
) -> Checkpoint:
    """Returns the checkpoint of weights from outside; writes it first if it is absent or damaged.

    Args:
        config: the configuration that says where runs are stored.
        name: the name of the run that holds the checkpoint.
        stage: the stage that starts from the weights.
        described_by: the configuration that the weights were made with.
        asked: the configuration's values that name the weights; `RunState.identity["asked"]`.
        content: a JSON value that identifies the weights; equal content of one parent is written
            once.
        parent_version: the registered version that the weights are, or descend from.
        manifest: the digest of the dataset that the weights were trained on, where it is known.
        make: returns the weights by name; called only if the checkpoint must be written.

    Raises:
        UserError: the store fails.
    """
    run = run_checkpoints(config, name)
    identity = asked | {"content": content, "parent version": parent_version}
    checkpoint = Checkpoint(run, 0, digest(identity)[:12])
    scratch = resolve(config.run.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    with FileLock(scratch / f"{run.name}.lock"):
        if checkpoint in run.complete():
            with suppress(DamagedError):
                checkpoint.local(RESULT)
                return checkpoint
        state = RunState(
            step=0,
            samples=0,
            world_size=1,
            zero_stage=0,
            seed=config.seed,
            manifest=manifest,
            identity={"asked": asked},
            metrics={},
            score=None,
            config=to_dict(described_by),
            stage=stage,
            networks=to_dict(described_by)["networks"],
            parent_version=parent_version,
        )
        _write(config, checkpoint, state, make())
    return checkpoint


def kept_weights(
    config: Config, name: str, *, used_by: str, asked: dict[str, Any]
) -> Checkpoint | None:
    """Returns the weights that a run began with, so that their source is not asked again.

    Args:
        name: the name of the run that holds the weights, as in `keep_weights`.
        used_by: the name of the run that began with them.
        asked: the request for the weights, as in `keep_weights`.

    Returns:
        the checkpoint; None where `used_by` has not begun, or was asked to begin with others.
    """
    if run_checkpoints(config, used_by).newest() is None:
        return None
    kept = run_checkpoints(config, name).newest_intact(RESULT)
    same = kept is not None and kept.state().identity.get("asked") == asked
    return kept if same else None


def _write(
    config: Config, checkpoint: Checkpoint, state: RunState, weights: dict[str, Tensor]
) -> None:
    writer = CheckpointWriter(
        checkpoint.run,
        rank=0,
        world_size=1,
        attempt=checkpoint.attempt,
        retention=Retention(last=1),
        policy=config.stream.policy,
    )
    try:
        write_weights(writer.folder(0), {n: w.contiguous() for n, w in weights.items()}, {}, state)
        writer.publish(0)
        writer.wait()
    finally:
        writer.close()
