"""One rank's part in writing a run's checkpoints, in the background, so that training goes on.

Why a checkpoint is complete or absent although the ranks share no barrier here: an attempt (one
life of a worker group) has a token that nobody else has, and writes only to folders with that
token in their names. So there is nothing to clear before it writes, and nothing that it writes is
ever written again. Every rank writes its files and then its note, which lists them, and rank 0
writes the marker after it has read the notes of all ranks: where there is a marker, there are all
files. What else there is at this step or before is removed after that, never earlier, and only if
it is this attempt's own or was there when it began. Thus an orphan of a killed attempt, even one
that wakes up hours later, touches no file of a later attempt; the checkpoint that its rank 0 may
still complete is as good as any other.
"""

import os
import re
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pipelines.errors import UserError
from pipelines.runs.checkpoint import EMA, MODEL, STATE, Checkpoint, Checkpoints, RunState
from pipelines.runs.marker import MARKER, DamagedError, Marker, StoredFile, for_each, read_marker
from pipelines.storage.files import local_files, write_json
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import LocalStore

# How soon and how often rank 0 looks for notes, and how long it still does after close().
FIRST_LOOK_S, LOOK_S, GRACE_S = 0.05, 2.0, 30.0


@dataclass(frozen=True)
class Retention:
    """Which complete checkpoints of a run stay: the newest `last` (at least 1), the `best` of the
    highest score, and every `every`-th step's for ever (0: none)."""

    last: int
    best: int = 0
    every: int = 0

    def kept(self, scores: dict[int, float | None]) -> set[int]:
        """Of these steps, with their scores (None or NaN: not among the best), those that stay."""
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
    """Rank 0's files of a checkpoint, besides the engine's. The tensors are contiguous."""
    save_file(model, folder / MODEL)
    save_file(ema, folder / EMA)
    write_json(folder / STATE, asdict(state))


class CheckpointWriter:
    """Stages and publishes the files of one rank.

    checkpoints: the run's. attempt: a random token of small letters and digits that all ranks of
    one worker group share, and no other group ever uses.
    policy: how long rank 0 waits for files of the others while none arrives.
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
        self._budget_s = policy.budget_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None
        self._closed = threading.Event()
        # Of later attempts an orphan must know nothing.
        self._before = set(checkpoints.present()) if rank == 0 else set()
        checkpoints.sweep_workspace(attempt)

    def folder(self, step: int) -> Path:
        """An empty folder for this rank's files of a checkpoint. Subfolders are fine; no two
        ranks may have files of the same name, and no name may begin with a dot."""
        folder = self._staging(step)
        with local_files(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def publish(self, step: int, score: float | None = None) -> None:
        """Starts to publish what is in `folder(step)`, once the one before is published.

        Raises:
            UserError: the one before failed.
        """
        self.wait()
        self._last = self._thread.submit(self._publish, step, score)

    def wait(self) -> None:
        """Until this rank's part of the last publish is done; on rank 0, the whole checkpoint.

        Raises:
            UserError: it failed: the store, or a rank that did not deliver.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Ends the thread. This rank's files still arrive, but rank 0 no longer waits long for
        those of the others, which may be dead; call `wait` before to know that all went well."""
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
        with suppress(OSError):  # other ranks of this node have theirs
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
        seen, since, delay = 0, time.monotonic(), FIRST_LOOK_S
        while True:
            present = self.checkpoints.store.names(f"{checkpoint.folder}/")
            missing = [str(rank) for note, rank in wanted.items() if note not in present]
            if not missing:
                return
            if len(present) > seen:
                seen, since = len(present), time.monotonic()
            patience = GRACE_S if self._closed.is_set() else self._budget_s
            if time.monotonic() - since > patience:
                raise UserError(
                    f"checkpoint {checkpoint.location} stays incomplete: no file of ranks "
                    f"{', '.join(missing)} came for {patience:.0f} s; see the log of their nodes, "
                    "and start the same command again."
                )
            time.sleep(delay)
            delay = min(2 * delay, LOOK_S)

    def _listed(self, checkpoint: Checkpoint) -> dict[str, StoredFile]:
        """The files of all ranks.

        Raises:
            UserError: one of them is not in the store any more.
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
        """Removes what retention does not keep, and what other attempts left half-written.

        The checkpoint of `step` was just seen to be whole, so it always stays. Later ones, which
        this attempt can only have passed over as damaged, stay until it gets there: they must not
        count as the newest.
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
            return None  # without asking the store
        with suppress(DamagedError):
            return checkpoint.marker.score
        return None


def _note(rank: int) -> str:
    """Returns the name of a rank's note in the checkpoint's folder."""
    return f"notes/{rank}.json"
