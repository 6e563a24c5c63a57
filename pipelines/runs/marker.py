"""What makes a checkpoint complete: the list of its files, which is written after all of them."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path

from pipelines.errors import UserError
from pipelines.storage.digests import digest
from pipelines.storage.files import MissingFileError, file_sha256, local_files
from pipelines.storage.store import Store

#: The marker's name in a checkpoint's folder.
MARKER = "COMPLETE"
THREADS = 4
# Bytes may be damaged on their way; those that are wrong in the store stay wrong.
TRIES = 3


class DamagedError(UserError):
    """A checkpoint has a marker, but not the files that the marker lists."""

    def __str__(self) -> str:
        return f"{self.args[0]}: delete its folder to use the one before, or train the run again."


@dataclass(frozen=True)
class StoredFile:
    """What is known of one file of a checkpoint."""

    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> "StoredFile":
        """Brings the file to the disk and describes it."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return StoredFile(path.stat().st_size, file_digest(file, "sha256").hexdigest())

    def fault_of(self, path: Path) -> str | None:
        """What is wrong with the copy at `path`; None if it is intact."""
        if not path.is_file():
            return "it is missing"
        if (found := path.stat().st_size) != self.bytes:
            return f"it has {found} bytes and not {self.bytes}"
        return None if file_sha256(path) == self.sha256 else "its sha256 is another"


@dataclass(frozen=True)
class Marker:
    """`score` is the validation PSNR in dB at this step, None where there was no validation;
    `files` are those of all ranks by name."""

    attempt: str
    step: int
    world_size: int
    score: float | None
    files: dict[str, StoredFile]

    def encode(self) -> bytes:
        """JSON for people, with a digest of its own."""
        values = asdict(self)
        sealed = values | {"sha256": digest(values)}
        return (json.dumps(sealed, indent=2, sort_keys=True) + "\n").encode()

    @staticmethod
    def decode(data: bytes) -> "Marker | None":
        """The inverse of `encode`; None for bytes that it did not write."""
        try:
            values = json.loads(data)
            if values.pop("sha256") != digest(values):
                return None
        except (ValueError, KeyError, AttributeError):
            return None
        files = {name: StoredFile(**file) for name, file in values["files"].items()}
        return Marker(**values | {"files": files})


def read_marker(store: Store, folder: str, name: str = MARKER) -> Marker:
    """The marker in a checkpoint's folder, or the note in which one rank lists its files.

    Raises:
        DamagedError: there is none that can be read.
    """
    with suppress(MissingFileError):
        for _ in range(TRIES):
            if (marker := Marker.decode(store.read(f"{folder}/{name}"))) is not None:
                return marker
    raise _damaged(f"{store.location}/{folder}", name, "it cannot be read")


def verify_files(where: str, directory: Path, files: dict[str, StoredFile]) -> None:
    """Raises DamagedError if one of the files in `directory` is not intact."""

    def verify(name: str, file: StoredFile) -> None:
        with local_files(directory):
            fault = file.fault_of(directory / name)
        if fault is not None:
            raise _damaged(where, name, fault)

    for_each(files, verify)


def fetch_files(store: Store, folder: str, directory: Path, files: dict[str, StoredFile]) -> None:
    """Copies those files of a checkpoint's folder that are not in `directory` yet, or damaged.

    Raises:
        DamagedError: the store does not hold what the marker says.
    """
    where = f"{store.location}/{folder}"
    # Asked even when this node has them all: the others have to fetch them.
    stored = store.sizes(f"{folder}/")
    for name, file in files.items():
        if (found := stored.get(f"{folder}/{name}")) != file.bytes:
            raise _damaged(where, name, f"it has {found or 'no'} bytes and not {file.bytes}")
    for cut_short in directory.rglob(".*"):
        cut_short.unlink()

    def fetch(name: str, file: StoredFile) -> None:
        path = directory / name
        fault, tries = file.fault_of(path), 0
        with suppress(MissingFileError):
            while fault is not None and tries < TRIES:
                store.fetch(f"{folder}/{name}", path, size=file.bytes)
                fault, tries = file.fault_of(path), tries + 1
        if fault is not None:
            raise _damaged(where, name, fault)

    for_each(files, fetch)


def for_each(files: dict[str, StoredFile], work: Callable[[str, StoredFile], None]) -> None:
    """Calls `work` with every name and file, a few at once; raises what it raises first."""
    with ThreadPoolExecutor(THREADS) as threads:
        # When one fails, map cancels those that have not begun.
        list(threads.map(work, files.keys(), files.values()))


def _damaged(where: str, name: str, fault: str) -> DamagedError:
    return DamagedError(f"checkpoint {where} is damaged (file {name}: {fault})")
