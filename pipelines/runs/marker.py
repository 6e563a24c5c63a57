"""Reads, writes and checks a checkpoint's marker: the list of its files, written after them."""

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
from pipelines.storage.forms import NonNegativeInt, PositiveInt, RelativePath, Sha256
from pipelines.storage.store import Store
from pipelines.storage.typed import parse_json, validated

#: The marker's name in a checkpoint's folder.
MARKER = "COMPLETE"
THREADS = 4
# Another read cures bytes that were damaged on their way, not those that are wrong in the store.
TRIES = 3


class DamagedError(UserError):
    """A checkpoint has a marker, but its files do not match the marker."""

    def __str__(self) -> str:
        return f"{self.args[0]}: delete its folder to use the one before, or train the run again."


@dataclass(frozen=True)
class StoredFile:
    """The size in bytes and the sha256 of one file of a checkpoint."""

    bytes: NonNegativeInt
    sha256: Sha256

    @staticmethod
    def of(path: Path) -> "StoredFile":
        """Forces a file to the disk, and returns its size and sha256.

        Raises:
            OSError: the file cannot be read.
        """
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return StoredFile(path.stat().st_size, file_digest(file, "sha256").hexdigest())

    def fault_of(self, path: Path) -> str | None:
        """Returns what is wrong with the copy at `path`, in words; None if it is intact."""
        if not path.is_file():
            return "it is missing"
        if (found := path.stat().st_size) != self.bytes:
            return f"it has {found} bytes and not {self.bytes}"
        return None if file_sha256(path) == self.sha256 else "its sha256 is another"


@dataclass(frozen=True)
class Marker:
    """The marker of a checkpoint, or the note of one rank.

    Attributes:
        score: the validation PSNR in dB at this step; None without a validation.
        files: the files of all ranks (in a note: of its rank), by name.
    """

    attempt: str
    step: NonNegativeInt
    world_size: PositiveInt
    score: float | None
    files: dict[RelativePath, StoredFile]

    def encode(self) -> bytes:
        """Returns the marker as indented JSON that holds its own digest."""
        values = asdict(self)
        sealed = values | {"sha256": digest(values)}
        return (json.dumps(sealed, indent=2, sort_keys=True) + "\n").encode()

    @staticmethod
    def decode(data: bytes) -> "Marker | None":
        """Returns the marker that `encode` wrote; None for other bytes."""
        try:
            values = parse_json(data)
            return validated(Marker, values) if values.pop("sha256") == digest(values) else None
        except (ValueError, KeyError, AttributeError, TypeError):
            return None


def read_marker(store: Store, folder: str, name: str = MARKER) -> Marker:
    """Returns the marker in a checkpoint's folder, or the note in which a rank lists its files.

    Raises:
        DamagedError: it is missing or damaged.
        UserError: the store fails.
    """
    with suppress(MissingFileError):
        for _ in range(TRIES):
            if (marker := Marker.decode(store.read(f"{folder}/{name}"))) is not None:
                return marker
    raise _damaged(f"{store.location}/{folder}", name, "it cannot be read")


def verify_files(where: str, directory: Path, files: dict[str, StoredFile]) -> None:
    """Checks the size and sha256 of files in `directory`.

    Raises:
        DamagedError: a file is not intact.
        UserError: the file system refuses.
    """

    def verify(name: str, file: StoredFile) -> None:
        with local_files(directory):
            fault = file.fault_of(directory / name)
        if fault is not None:
            raise _damaged(where, name, fault)

    for_each(files, verify)


def fetch_files(store: Store, folder: str, directory: Path, files: dict[str, StoredFile]) -> None:
    """Copies the files that `directory` lacks, or holds damaged, from a checkpoint's folder.

    Raises:
        DamagedError: the files in the store do not match the marker.
        UserError: the store fails.
    """
    where = f"{store.location}/{folder}"
    # It checks the store even if this node has all files, since other nodes must fetch them.
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
    """Calls `work` with every name and file, a few at once; raises the first error of a call."""
    with ThreadPoolExecutor(THREADS) as threads:
        # When one call fails, map cancels those that have not begun.
        list(threads.map(work, files.keys(), files.values()))


def _damaged(where: str, name: str, fault: str) -> DamagedError:
    return DamagedError(f"checkpoint {where} is damaged (file {name}: {fault})")
