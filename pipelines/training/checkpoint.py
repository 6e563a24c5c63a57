"""Checkpoints: one directory each, written by every rank, complete or absent.

`step-000200/` holds the engine's own files (`engine/`), `model.safetensors` with the
full-precision weights of every network, frozen ones too, `ema.safetensors`, `state.json`, and
`COMPLETE`, which is written last: without it the directory does not exist for any reader.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.errors import UserError
from pipelines.storage import read_json, write_bytes, write_json

MARKER = "COMPLETE"


@dataclass(frozen=True)
class RunState:
    """What a run resumes from, besides weights. `identity` is every setting that shapes the
    result; a run only ever resumes with the same ones. `metrics` are the last ones measured."""

    step: int
    samples: int
    world_size: int
    zero_stage: int
    seed: int
    manifest: str
    identity: dict[str, Any]
    metrics: dict[str, float]
    config: dict[str, Any]


def complete_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run directory, oldest first."""
    found = (path.parent for path in run.glob(f"step-*/{MARKER}"))
    return sorted(found, key=lambda checkpoint: int(checkpoint.name.removeprefix("step-")))


def newest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run directory, if any."""
    checkpoints = complete_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def directory_for(run: Path, step: int) -> Path:
    return run / f"step-{step:06d}"


def load_state(checkpoint: Path) -> RunState:
    return RunState(**read_json(checkpoint / "state.json"))


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights to use: the averaged ones where there are any, the live ones elsewhere."""
    return load_file(checkpoint / "model.safetensors") | load_ema(checkpoint)


def load_ema(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of the parameters that were trained."""
    return load_file(checkpoint / "ema.safetensors")


def write_weights(
    checkpoint: Path, model: dict[str, Tensor], ema: dict[str, Tensor], state: RunState
) -> None:
    """Rank 0's part of a checkpoint, all but the marker."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.items()}, checkpoint / "model.safetensors")
    save_file({k: v.contiguous() for k, v in ema.items()}, checkpoint / "ema.safetensors")
    write_json(checkpoint / "state.json", asdict(state))


def mark_complete(checkpoint: Path) -> None:
    """Makes a checkpoint visible. Call once every rank has written its part."""
    write_bytes(checkpoint / MARKER, b"")


def discard(checkpoint: Path) -> None:
    """Removes a checkpoint; one that is interrupted half-way is an incomplete one."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def prune(run: Path, keep: int) -> None:
    """Removes all but the `keep` newest complete checkpoints."""
    for checkpoint in complete_checkpoints(run)[:-keep]:
        discard(checkpoint)


def check_resumable(
    name: str,
    state: RunState,
    identity: dict[str, Any],
    workers: int,
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
    if (state.world_size, state.zero_stage) != (workers, zero_stage):
        raise UserError(
            f"run '{name}' was started with train.workers={state.world_size} "
            f"train.zero_stage={state.zero_stage} and can only resume with the same: set them "
            "back, or choose another run.name."
        )
