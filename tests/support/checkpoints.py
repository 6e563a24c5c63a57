"""Small checkpoints for tests, written by the real writer without an engine."""

import os
from pathlib import Path

from pipelines.runs.checkpoint import Checkpoint, Checkpoints
from pipelines.runs.writer import CheckpointWriter, Retention
from pipelines.storage.clock import Clock
from pipelines.storage.node_folder import NodeFolder
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import LocalStore, open_store

KEEP_ALL = Retention(99)


def open_run(location: str | Path, node: Path, *, clock: Clock = Clock()) -> Checkpoints:
    """A run as the processes of one node see it."""
    store = open_store(location, policy=RetryPolicy(clock=clock))
    return Checkpoints(store, NodeFolder.of(node / "scratch"))


def open_writer(
    run: Checkpoints,
    attempt: str,
    *,
    rank: int = 0,
    world_size: int = 1,
    retention: Retention = KEEP_ALL,
    budget_s: float = 600.0,
    clock: Clock = Clock(),
) -> CheckpointWriter:
    return CheckpointWriter(
        run,
        rank=rank,
        world_size=world_size,
        attempt=attempt,
        retention=retention,
        policy=RetryPolicy(budget_s=budget_s, clock=clock),
    )


def stage(writer: CheckpointWriter, step: int, size: int = 3000) -> None:
    """Two files of random bytes, one in a subfolder, that the rank is about to publish."""
    folder = writer.folder(step)
    (folder / "engine").mkdir()
    (folder / f"model-{writer.rank}").write_bytes(os.urandom(size))
    (folder / "engine" / f"shard-{writer.rank}.pt").write_bytes(os.urandom(size))


def write(
    run: Checkpoints,
    attempt: str,
    *steps: int,
    scores: dict[int, float | None] | None = None,
    retention: Retention = KEEP_ALL,
) -> None:
    """An attempt of one rank that publishes these steps."""
    writer = open_writer(run, attempt, retention=retention)
    for step in steps:
        stage(writer, step)
        writer.publish(step, (scores or {}).get(step))
    writer.wait()
    writer.close()


def at(run: Checkpoints, step: int) -> Checkpoint:
    """The one complete checkpoint at a step."""
    [checkpoint] = [checkpoint for checkpoint in run.complete() if checkpoint.step == step]
    return checkpoint


def damage(checkpoint: Checkpoint, name: str, kind: str) -> None:
    """Flips a byte of a stored file, cuts it or deletes it."""
    store, name = checkpoint.run.store, f"{checkpoint.folder}/{name}"
    data = store.read(name)
    if kind == "flip":
        store.write(name, data[:-2] + bytes([data[-2] ^ 0xFF]) + data[-1:])
    elif kind == "cut":
        store.write(name, data[: len(data) // 2])
    else:
        store.delete(name)


def folders(run: Checkpoints) -> set[str]:
    """Everything of checkpoints that lies in the store, whole or not, and what waits beside it."""
    stored = {name.partition("/")[0] for name in run.store.names() if "step-" in name}
    if isinstance(run.store, LocalStore):
        stored |= {path.name for path in run.store.directory.glob("*step-*")}
    return stored | {path.name for path in run.workspace.glob(".step-*")}
