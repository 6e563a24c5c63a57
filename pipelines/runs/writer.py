"""Writes one rank's files of a run's checkpoints, in the background, so that training goes on.

A checkpoint is complete or absent, although the ranks share no barrier here:

- An attempt is one life of a worker group. It has a token of its own, and writes only to folders
  with this token in their names. So it need not clear a folder first, and no other attempt
  overwrites its files.
- Every rank writes its files, and then a note that lists them. Rank 0 reads the notes of all ranks,
  and then writes the marker. So where a marker is, all files are.
- After the marker, rank 0 removes older checkpoints and incomplete ones, up to this step. It
  removes only those that this attempt wrote, or that were there when it began.

An orphan is a process of a killed attempt. It may wake up hours later, and still touches no file
of a later attempt. If its rank 0 completes a checkpoint then, that one is as good as any other.
"""

import os
import re
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path

from torch import Tensor

from pipelines.errors import UserError
from pipelines.runs.checkpoint import EMA, MODEL, STATE, Checkpoint, Checkpoints, RunState
from pipelines.runs.marker import MARKER, DamagedError, Marker, StoredFile, for_each, read_marker
from pipelines.storage.files import local_files, write_bytes
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import LocalStore
from pipelines.storage.tensors import save_tensors
from pipelines.storage.typed import to_json

# Rank 0 looks for notes after FIRST_LOOK_S, then up to every LOOK_S; after close() for GRACE_S.
FIRST_LOOK_S, LOOK_S, GRACE_S = 0.05, 2.0, 30.0


@dataclass(frozen=True)
class Retention:
    """The rule that says which complete checkpoints of a run stay.

    Attributes:
        last: the number of newest checkpoints that stay, at least 1.
        best: the number of checkpoints with the highest score that stay.
        every: checkpoints at multiples of this number of steps stay for ever; 0: none.
    """

    last: int
    best: int = 0
    every: int = 0

    def kept(self, scores: dict[int, float | None]) -> set[int]:
        """Returns the steps that stay, given each step's score; None and NaN are never the best."""
        steps = sorted(scores)
        measured = [(score, step) for step, score in scores.items() if score is not None]
        best = sorted((pair for pair in measured if not isnan(pair[0])), reverse=True)
        return {
            *steps[-self.last :],
            *(step for _, step in best[: self.best]),
            *(step for step in steps if self.every and step % self.every == 0),
        }


def write_weights(
    folder: Path, model: dict[str, Tensor], ema: dict[str, Tensor], state: RunState
) -> None:
    """Writes rank 0's files of a checkpoint, besides the engine's.

    Args:
        model: the contiguous full-precision weights of every network, by name.
        ema: the contiguous averages of the trained weights, by name.

    Raises:
        UserError: the file system refuses the state.
    """
    save_tensors(model, folder / MODEL)
    save_tensors(ema, folder / EMA)
    write_bytes(folder / STATE, to_json(state))


class CheckpointWriter:
    """Stages and publishes the files of one rank.

    Args:
        checkpoints: the checkpoints of the run.
        attempt: a random token of lower-case letters and digits. All ranks of a worker group share
            it, and no other group uses it.
        policy: limits how long rank 0 waits while no file of the other ranks arrives.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        rank: int,
        world_size: int,
        attempt: str,
        retention: Retention,
        policy: RetryPolicy,
    ) -> None:
        assert re.fullmatch("[0-9a-z]+", attempt), attempt
        self.checkpoints, self.rank, self.world_size = checkpoints, rank, world_size
        self.attempt, self.retention = attempt, retention
        self._budget_s, self._clock = policy.budget_s, policy.clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None
        self._closed = threading.Event()
        # An orphan must not remove checkpoints of later attempts.
        self._before = set(checkpoints.present()) if rank == 0 else set()
        checkpoints.sweep_workspace(attempt)

    def folder(self, step: int) -> Path:
        """Returns an empty folder for this rank's files of a checkpoint.

        Subfolders are allowed. Two ranks must not have files of one name, and no name may begin
        with a dot.

        Raises:
            UserError: the file system refuses.
        """
        folder = self._staging(step)
        with local_files(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def publish(self, step: int, score: float | None = None) -> None:
        """Starts to publish the files in `folder(step)`; first waits for the checkpoint before.

        Raises:
            UserError: the checkpoint before failed.
        """
        self.wait()
        self._last = self._thread.submit(self._publish, step, score)

    def wait(self) -> None:
        """Waits until this rank has published its files; on rank 0, until all ranks have.

        Raises:
            UserError: the store failed, or a rank wrote no files.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Ends the thread, after it has published this rank's files.

        Rank 0 no longer waits long for the other ranks, which may be dead. Call `wait` first to
        learn of errors.
        """
        self._closed.set()
        self._thread.shutdown()

    def _staging(self, step: int) -> Path:
        folder = f".{self._checkpoint(step).folder}"
        return self.checkpoints.workspace / folder / f"rank-{self.rank}"

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(self.checkpoints, step, self.attempt)

    def _publish(self, step: int, score: float | None) -> None:
        checkpoint, staging = self._checkpoint(step), self._staging(step)
        names = LocalStore(staging).names()
        if not staging.is_dir():
            raise UserError(
                f"the files for {checkpoint.location} are gone from {staging}: another job trains "
                "this run; stop one of the two."
            )
        with local_files(staging):
            files = {name: StoredFile.of(staging / name) for name in names}
        for_each(files, lambda name, _: self._bring(staging / name, f"{checkpoint.folder}/{name}"))
        note = Marker(self.attempt, step, self.world_size, score, files)
        self.checkpoints.store.write(f"{checkpoint.folder}/{_note(self.rank)}", note.encode())
        if self.rank == 0:
            self._await_notes(checkpoint)
            marker = replace(note, files=self._listed(checkpoint))
            self.checkpoints.store.write(f"{checkpoint.folder}/{MARKER}", marker.encode())
            self._prune(step)
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # other ranks of this node still have files in it
            staging.parent.rmdir()

    def _bring(self, path: Path, name: str) -> None:
        directory = self.checkpoints.directory
        if directory is None:
            return self.checkpoints.store.write_file(name, path)
        with local_files(directory / name):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, directory / name)

    def _await_notes(self, checkpoint: Checkpoint) -> None:
        wanted = {f"{checkpoint.folder}/{_note(rank)}": rank for rank in range(self.world_size)}
        seen, since, delay = 0, self._clock.now(), FIRST_LOOK_S
        while True:
            present = self.checkpoints.store.names(f"{checkpoint.folder}/")
            missing = [str(rank) for note, rank in wanted.items() if note not in present]
            if not missing:
                return
            if len(present) > seen:
                seen, since = len(present), self._clock.now()
            patience = GRACE_S if self._closed.is_set() else self._budget_s
            if self._clock.now() - since > patience:
                raise UserError(
                    f"checkpoint {checkpoint.location} stays incomplete: no file of ranks "
                    f"{', '.join(missing)} came for {patience:.0f} s; see the log of their nodes, "
                    "and start the same command again."
                )
            self._clock.sleep(delay)
            delay = min(2 * delay, LOOK_S)

    def _listed(self, checkpoint: Checkpoint) -> dict[str, StoredFile]:
        """Returns the files of all ranks by name.

        Raises:
            UserError: a file is not in the store any more.
        """
        listed: dict[str, StoredFile] = {}
        for rank in range(self.world_size):
            files = read_marker(self.checkpoints.store, checkpoint.folder, _note(rank)).files
            assert not listed.keys() & files.keys(), sorted(listed.keys() & files.keys())
            listed |= files
        stored = self.checkpoints.store.sizes(f"{checkpoint.folder}/")
        for name, file in listed.items():
            if stored.get(f"{checkpoint.folder}/{name}") != file.bytes:
                raise UserError(
                    f"file {name} is gone from {checkpoint.location} before it was complete: "
                    "another job trains this run; stop one of the two."
                )
        return listed

    def _prune(self, step: int) -> None:
        """Removes checkpoints that retention does not keep, and those that other attempts left.

        The checkpoint of `step` always stays, since all its files were just seen. Checkpoints of
        later steps are damaged ones, which this attempt passed over when it began. They stay until
        it reaches their steps, and must not count as the newest.
        """
        present = {
            checkpoint: done
            for checkpoint, done in self.checkpoints.present().items()
            if checkpoint.step <= step
            and (checkpoint.attempt == self.attempt or checkpoint in self._before)
        }
        complete = [checkpoint for checkpoint, done in present.items() if done]
        kept = self.retention.kept({c.step: self._score(c) for c in complete}) | {step}
        for checkpoint, done in present.items():
            mine = checkpoint.attempt == self.attempt
            if not (done and checkpoint.step in kept and (mine or checkpoint.step < step)):
                checkpoint.remove()

    def _score(self, checkpoint: Checkpoint) -> float | None:
        if not self.retention.best:
            return None  # saves a request to the store
        with suppress(DamagedError):
            return checkpoint.marker.score
        return None


def _note(rank: int) -> str:
    """Returns the name of a rank's note in the checkpoint's folder."""
    return f"notes/{rank}.json"
