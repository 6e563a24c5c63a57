"""Checkpoints of a run, on a path or on s3://: complete or absent, intact or refused.

This is the reader's side; `writer.py` is the other. `step-000200-<attempt>/` holds the engine's
own files (`engine/`), `model.safetensors` with the full-precision weights of every network, frozen
ones too, `ema.safetensors`, `state.json`, and `COMPLETE` (see `marker.py`), which is written last:
without it the checkpoint does not exist for any reader.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

from pipelines.runs.marker import (
    MARKER,
    DamagedError,
    Marker,
    StoredFile,
    fetch_files,
    read_marker,
    verify_files,
)
from pipelines.storage.digests import digest
from pipelines.storage.files import local_files
from pipelines.storage.store import LocalStore, Store
from pipelines.storage.typed import Document, read_typed

STATE, MODEL, EMA = "state.json", "model.safetensors", "ema.safetensors"
#: The files behind `Checkpoint.state` and `Checkpoint.weights`: the result of a finished run.
RESULT = (STATE, MODEL, EMA)
FOLDER = re.compile(r"step-(\d{6,})-([0-9a-z]+)")


@dataclass(frozen=True)
class RunState(Document):
    """Everything that a run resumes from, besides weights.

    Attributes:
        identity: every setting that shapes the result; a run only ever resumes with the same ones.
        metrics: the last ones that were measured.
        score: validation PSNR in dB at this step; None where there was no validation.
        config: of the run.
        stage: its name in the recipe.
        networks: the configuration of the networks that the weights fit; a stage may leave other
            networks behind than the recipe has.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "choose another run.name"

    step: int
    samples: int
    world_size: int
    zero_stage: int
    seed: int
    manifest: str
    identity: dict[str, Any]
    metrics: dict[str, float]
    score: float | None
    config: dict[str, Any]
    stage: str
    networks: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; can be pickled.

    store: the run's directory or `s3://` prefix.
    scratch: node-local folder; files wait there for their upload to s3:// and are fetched to it.
    """

    store: Store
    scratch: Path

    @property
    def location(self) -> str:
        return self.store.location

    @property
    def name(self) -> str:
        """The run's."""
        return self.location.rpartition("/")[2]

    @property
    def directory(self) -> Path | None:
        """The run's directory, where it has one: files there are renamed and read in place."""
        return self.store.directory if isinstance(self.store, LocalStore) else None

    @property
    def workspace(self) -> Path:
        """Where this node keeps what is not a checkpoint yet, and what it fetched of one."""
        return self.directory or self.scratch / f"{self.name}-{digest(self.location)[:8]}"

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return sorted({checkpoint.step for checkpoint in self.complete()})

    def newest(self) -> "Checkpoint | None":
        """The newest complete checkpoint. Whether it is intact shows when it is read."""
        return max(self.complete(), key=_age, default=None)

    def newest_intact(self, prefix: str | tuple[str, ...] = "") -> "Checkpoint | None":
        """The newest one whose files (those whose names start with `prefix`) are what its marker
        says. Damaged ones on the way are named in a line each, and left as they are.

        Raises:
            UserError: the store fails.
        """
        refused: set[Checkpoint] = set()
        while left := sorted(set(self.complete()) - refused, key=_age):
            try:
                left[-1].local(prefix)
                return left[-1]
            except DamagedError as error:
                refused.add(left[-1])
                if left[-1] not in self.complete():
                    continue  # It was removed while it was read, which is no damage.
                rest = f"going back to step {left[-2].step}" if left[1:] else "there is no other"
                print(f"{error.args[0]}: {rest}.", flush=True)
        return None

    def complete(self) -> "list[Checkpoint]":
        """Every complete checkpoint, in no order."""
        return [checkpoint for checkpoint, complete in self.present().items() if complete]

    def present(self) -> "dict[Checkpoint, bool]":
        """Everything that is there of any checkpoint, and whether it is complete."""
        folders: dict[str, bool] = {}
        if self.directory is not None:
            for path in self.directory.glob("step-*"):
                folders[path.name] = (path / MARKER).is_file()
        else:
            for name in self.store.names("step-"):
                folder, _, file = name.partition("/")
                folders[folder] = folders.get(folder, False) or file == MARKER
        matches = {FOLDER.fullmatch(folder): complete for folder, complete in folders.items()}
        return {Checkpoint(self, int(m[1]), m[2]): done for m, done in matches.items() if m}

    def sweep(self) -> None:
        """Removes what killed attempts left. Only for whoever has the run's lease."""
        for checkpoint, complete in self.present().items():
            if not complete:
                checkpoint.remove()
        self.sweep_workspace()

    def sweep_workspace(self, attempt: str | None = None) -> None:
        """Removes this node's staging folders, except those of `attempt`."""
        for path in self.workspace.glob(".swept.step-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.workspace.glob(".step-*"):
            if attempt is None or not path.name.endswith(f"-{attempt}"):
                # At one stroke: an orphan that is about to publish must not find half its files.
                swept = path.with_name(f".swept{path.name}")
                with suppress(OSError):  # another rank of this node was faster
                    path.rename(swept)
                shutil.rmtree(swept, ignore_errors=True)


@dataclass(frozen=True)
class Checkpoint:
    """What one attempt at a run wrote at one step; can be pickled.

    Everything that reads from it raises DamagedError for a file that is missing or not what the
    marker says, and UserError when the store fails.
    """

    run: Checkpoints
    step: int
    attempt: str

    @property
    def folder(self) -> str:
        """Its name in the run's store."""
        return f"step-{self.step:06d}-{self.attempt}"

    @property
    def location(self) -> str:
        return f"{self.run.location}/{self.folder}"

    @cached_property
    def marker(self) -> Marker:
        return read_marker(self.run.store, self.folder)

    @property
    def files(self) -> dict[str, StoredFile]:
        """By name."""
        return self.marker.files

    def state(self) -> RunState:
        with self._held(STATE) as folder:
            return read_typed(RunState, (folder / STATE).read_bytes(), f"{self.location}/{STATE}")

    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the averaged ones where there are any, the live ones elsewhere."""
        with self._held((MODEL, EMA)) as folder:
            return load_file(folder / MODEL) | load_file(folder / EMA)

    def live_weights(self) -> dict[str, Tensor]:
        """Those that the run goes on from, of every network."""
        with self._held(MODEL) as folder:
            return load_file(folder / MODEL)

    def ema(self) -> dict[str, Tensor]:
        """The averaged weights of the parameters that were trained."""
        with self._held(EMA) as folder:
            return load_file(folder / EMA)

    def local(self, prefix: str | tuple[str, ...] = "") -> Path:
        """A local directory with the files whose names start with `prefix`, each one verified.

        From s3:// they are fetched once per node, and stay until a newer checkpoint of the run
        is fetched.
        """
        with self._held(prefix) as folder:
            return folder

    def remove(self) -> None:
        """The marker goes first: a removal that is cut short leaves an incomplete checkpoint."""
        store, directory = self.run.store, self.run.directory
        store.delete(f"{self.folder}/{MARKER}")
        if directory is not None:
            shutil.rmtree(directory / self.folder, ignore_errors=True)
        else:
            for name in store.names(f"{self.folder}/"):
                store.delete(name)

    @contextmanager
    def _held(self, prefix: str | tuple[str, ...]) -> Iterator[Path]:
        """As `local`; nobody else on this node replaces the files during the block."""
        wanted = {name: file for name, file in self.files.items() if name.startswith(prefix)}
        workspace = self.run.workspace
        folder = workspace / self.folder
        if self.run.directory is not None:
            verify_files(self.location, folder, wanted)
            yield folder
            return
        with local_files(workspace):
            workspace.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace / ".lock"):
            self._fetch(folder, wanted)
            yield folder

    def _fetch(self, folder: Path, files: dict[str, StoredFile]) -> None:
        try:
            fetch_files(self.run.store, self.folder, folder, files)
        except DamagedError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for other in self.run.workspace.glob("step-*"):
            match = FOLDER.fullmatch(other.name)
            if match and int(match[1]) <= self.step and other != folder:
                shutil.rmtree(other, ignore_errors=True)


def _age(checkpoint: Checkpoint) -> tuple[int, str]:
    return checkpoint.step, checkpoint.attempt
