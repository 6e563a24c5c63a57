"""Reads the checkpoints of a run, in a folder or under s3://; `writer.py` writes them.

`step-000200-<attempt>/` holds the engine's own files (`engine/`), the full-precision weights of
every network, frozen ones too (`model.safetensors`), their averages (`ema.safetensors`),
`state.json`, and the marker `COMPLETE` (see `marker.py`). The marker is written last. A checkpoint
without it does not exist for any reader.
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
from pipelines.storage.forms import NonNegativeInt, PositiveInt
from pipelines.storage.node_folder import NodeFolder
from pipelines.storage.store import LocalStore, Store
from pipelines.storage.typed import Document, read_typed

STATE, MODEL, EMA = "state.json", "model.safetensors", "ema.safetensors"
#: The files that `Checkpoint.state` and `Checkpoint.weights` read: the result of a finished run.
RESULT = (STATE, MODEL, EMA)
FOLDER = re.compile(r"step-(\d{6,})-([0-9a-z]+)")
#: The folders of files that are not published yet, and those that are being removed.
STAGING = re.compile(rf"(\.swept)?\.{FOLDER.pattern}")


@dataclass(frozen=True)
class RunState(Document):
    """The state that a run resumes from, besides weights.

    Attributes:
        step: the number of optimizer steps that are done.
        samples: the number of samples consumed.
        manifest: the digest of the dataset's manifest.
        identity: every setting that shapes the result; a run resumes only with equal ones.
        metrics: the metrics that were measured last.
        score: the validation PSNR in dB at this step; None without a validation.
        config: the configuration of the run.
        stage: the stage's name in the recipe.
        networks: the configuration of the networks that the weights fit; it may differ from the
            recipe's.
        parent_version: the registered version that the weights descend from, see `Provenance`.
    """

    VERSION: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "choose another run.name"

    step: NonNegativeInt
    samples: NonNegativeInt
    world_size: PositiveInt
    zero_stage: NonNegativeInt
    seed: int
    manifest: str
    identity: dict[str, Any]
    metrics: dict[str, float]
    score: float | None
    config: dict[str, Any]
    stage: str
    networks: dict[str, Any]
    parent_version: str | None = None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run. An instance can be pickled.

    Attributes:
        store: the run's directory or `s3://` prefix.
        scratch: each node's own folder for files on their way to and from s3://.
    """

    store: Store
    scratch: NodeFolder

    @property
    def location(self) -> str:
        """The run's absolute path or `s3://bucket/prefix`."""
        return self.store.location

    @property
    def name(self) -> str:
        """The run's name."""
        return self.location.rpartition("/")[2]

    @property
    def directory(self) -> Path | None:
        """The run's directory, whose files are read in place; None for a run in s3://."""
        return self.store.directory if isinstance(self.store, LocalStore) else None

    @property
    def workspace(self) -> Path:
        """This node's folder for files that are not published yet, and for fetched ones."""
        return self.directory or self.scratch.path / f"{self.name}-{digest(self.location)[:8]}"

    def steps(self) -> list[int]:
        """Returns the steps that have a complete checkpoint, in ascending order."""
        return sorted({checkpoint.step for checkpoint in self.complete()})

    def newest(self) -> "Checkpoint | None":
        """Returns the newest complete checkpoint, without a check that its files are intact."""
        return max(self.complete(), key=_age, default=None)

    def newest_intact(self, prefix: str | tuple[str, ...] = "") -> "Checkpoint | None":
        """Returns the newest checkpoint that is intact; None if there is none.

        A checkpoint is intact if its files whose names start with `prefix` match its marker. This
        prints a line for each damaged checkpoint that it passes, and changes none.

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
                    continue  # It is gone because another process removed it.
                rest = f"going back to step {left[-2].step}" if left[1:] else "there is no other"
                print(f"{error.args[0]}: {rest}.", flush=True)
        return None

    def complete(self) -> "list[Checkpoint]":
        """Returns every complete checkpoint, in no order."""
        return [checkpoint for checkpoint, complete in self.present().items() if complete]

    def present(self) -> "dict[Checkpoint, bool]":
        """Returns every checkpoint that has files, each with True if it is complete."""
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
        """Removes the remains of killed attempts. Only the holder of the run's lease may do so."""
        for checkpoint, complete in self.present().items():
            if not complete:
                checkpoint.remove()
        self.sweep_workspace()

    def sweep_workspace(self, attempt: str | None = None) -> None:
        """Removes the staging folders on this node, except those of `attempt`."""
        staging = {path: STAGING.fullmatch(path.name) for path in self.workspace.glob(".*step-*")}
        for path in [path for path, match in staging.items() if match and match[1]]:
            shutil.rmtree(path, ignore_errors=True)
        for path in [path for path, match in staging.items() if match and not match[1]]:
            if attempt is None or not path.name.endswith(f"-{attempt}"):
                # The rename removes all files at once. An orphan that is about to publish must not
                # find half of them.
                swept = path.with_name(f".swept{path.name}")
                with suppress(OSError):  # another rank of this node was faster
                    path.rename(swept)
                shutil.rmtree(swept, ignore_errors=True)


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint that one attempt at a run wrote at one step. An instance can be pickled.

    Every method that reads raises DamagedError if a file is missing or does not match the marker,
    and UserError if the store fails.
    """

    run: Checkpoints
    step: int
    attempt: str

    @property
    def folder(self) -> str:
        """The name of the checkpoint's folder in the run's store."""
        return f"step-{self.step:06d}-{self.attempt}"

    @property
    def location(self) -> str:
        """The checkpoint's absolute path or `s3://bucket/prefix`."""
        return f"{self.run.location}/{self.folder}"

    @cached_property
    def marker(self) -> Marker:
        """The list of the checkpoint's files, read once."""
        return read_marker(self.run.store, self.folder)

    @property
    def files(self) -> dict[str, StoredFile]:
        """The files of the checkpoint, by name."""
        return self.marker.files

    def state(self) -> RunState:
        """Returns the state that the run resumes from."""
        with self._held(STATE) as folder:
            return read_typed(RunState, (folder / STATE).read_bytes(), f"{self.location}/{STATE}")

    def weights(self) -> dict[str, Tensor]:
        """Returns the weights to use, by name: averages where they exist, else live weights."""
        with self._held((MODEL, EMA)) as folder:
            return load_file(folder / MODEL) | load_file(folder / EMA)

    def live_weights(self) -> dict[str, Tensor]:
        """Returns the weights of every network, by name, as the run continues to train them."""
        with self._held(MODEL) as folder:
            return load_file(folder / MODEL)

    def ema(self) -> dict[str, Tensor]:
        """Returns the averaged weights of the trained parameters, by name."""
        with self._held(EMA) as folder:
            return load_file(folder / EMA)

    def local(self, prefix: str | tuple[str, ...] = "") -> Path:
        """Returns a local directory with the files whose names start with `prefix`, all verified.

        A node fetches files from s3:// once, and keeps them until it fetches a newer checkpoint of
        the run.
        """
        with self._held(prefix) as folder:
            return folder

    def remove(self) -> None:
        """Removes the checkpoint.

        It deletes the marker first, so that a removal which is cut short leaves an incomplete
        checkpoint.
        """
        store, directory = self.run.store, self.run.directory
        store.delete(f"{self.folder}/{MARKER}")
        if directory is not None:
            shutil.rmtree(directory / self.folder, ignore_errors=True)
        else:
            for name in store.names(f"{self.folder}/"):
                store.delete(name)

    @contextmanager
    def _held(self, prefix: str | tuple[str, ...]) -> Iterator[Path]:
        """Gives the folder that `local` returns; no process of this node replaces it meanwhile."""
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
