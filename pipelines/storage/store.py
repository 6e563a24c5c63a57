"""Gives local directories and s3:// prefixes one interface, so that no other room tells them apart.

The rooms that write the files know what they mean.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from pipelines.errors import UserError, told
from pipelines.storage.files import (
    TEMPORARY,
    create_file,
    local_files,
    open_regular,
    whole_file,
    write_bytes,
)
from pipelines.storage.paths import resolve
from pipelines.storage.retries import RetryPolicy


@dataclass(frozen=True)
class Stamp:
    """The entry of a file in a listing: its bytes, and a mark that changes when they are replaced.

    mark: the ETag of an object, or the time of a file's last change in nanoseconds.
    """

    size: int
    mark: str


class Store(Protocol):
    """A directory or an s3:// prefix that holds files by name, with forward slashes.

    Stores can be pickled. Many threads and processes can use one at once.

    Every method raises UserError for a failure outside the program (rights, network, a full disk),
    and for a name that leaves the store. Reading an absent file raises its subclass
    MissingFileError.
    """

    location: str
    """The absolute path, or `s3://bucket/prefix`."""

    def size(self, name: str) -> int | None:
        """Returns the number of bytes in a file; None if there is no such file."""

    def names(self, prefix: str = "") -> list[str]:
        """Returns the sorted names of all files, at any depth, that start with `prefix`."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Returns the number of bytes of each file that `names(prefix)` lists, in its order."""

    def stamps(self, prefix: str = "") -> dict[str, Stamp]:
        """Returns the stamp of each file that `names(prefix)` lists, in its order."""

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Returns `size` bytes from `offset` on (None: all of them), fewer if the file ends."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all; replaces an older one."""

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file, whole or not at all, unless one of this name exists; returns whether it
        did. Of many that create a name at once, one does. The data must be the caller's own: where
        an answer of the server was lost, they tell whose file it is."""

    def write_file(self, name: str, path: Path) -> None:
        """Writes a file as `write` does, from a local file of any size."""

    def fetch(self, name: str, path: Path, *, size: int) -> None:
        """Copies a file to a local one, whole or not at all.

        Raises:
            UserError: the file does not have `size` bytes.
        """

    def delete(self, name: str) -> None:
        """Deletes a file if it is there."""


def open_store(location: str | Path, *, policy: RetryPolicy = RetryPolicy()) -> Store:
    """Returns the store at a path (relative to SRMILL_HOME) or at `s3://bucket/prefix`.

    It reads nothing yet, so the place need not exist. `policy` limits the waiting for s3.

    Raises:
        UserError: the location has another scheme, or names no bucket.
    """
    text = str(location)
    if text.startswith("s3://"):
        # The import of boto3 takes long, and a local run does not need it.
        from pipelines.storage.s3 import S3Store

        return S3Store(text, policy)
    if "://" in text:
        raise UserError(
            f"'{told(text)}' is neither a path nor s3://bucket/prefix: use one of the two."
        )
    return LocalStore(resolve(location))


def check_name(name: str, *, prefix: bool = False) -> str:
    """Returns the name if it stays inside its store.

    Raises:
        UserError: the name is empty (and no `prefix`), is absolute, or contains `.`, `..` or an
            empty part.
    """
    parts = name.split("/")
    if prefix and parts[-1] == "":
        parts = parts[:-1]
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise UserError(
            f"'{name}' is not a name inside a store: use a relative one with forward slashes, "
            "without '.' and '..'."
        )
    return name


def wrong_size(where: str, found: int, expected: int) -> UserError:
    """Returns the error for a file of `found` bytes that should have `expected` bytes."""
    return UserError(
        f"{where} has {found} bytes and not {expected}: it was replaced or cut short after it "
        "was listed; write it again, or make its manifest again."
    )


def _raise(error: OSError) -> None:
    raise error


def _file_stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:  # a broken link is listed, and its reader reports it
        found = os.lstat(path)
    return Stamp(found.st_size, str(found.st_mtime_ns))


class LocalStore:
    """A local directory as a store."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))
        self.location = str(self.directory)

    def __repr__(self) -> str:
        return f"LocalStore({self.location!r})"

    def _path(self, name: str) -> Path:
        return self.directory / check_name(name)

    def size(self, name: str) -> int | None:
        path = self._path(name)
        with local_files(path):
            return path.stat().st_size if path.is_file() else None

    def names(self, prefix: str = "") -> list[str]:
        return list(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {name: stamp.size for name, stamp in self.stamps(prefix).items()}

    def stamps(self, prefix: str = "") -> dict[str, Stamp]:
        start = self.directory / PurePosixPath(
            check_name(prefix, prefix=True)[: prefix.rfind("/") + 1]
        )
        found: dict[str, Stamp] = {}
        if not start.exists():
            return found
        with local_files(start):
            # An unreadable folder must not look like an empty one.
            for folder, _, files in os.walk(start, onerror=_raise):
                for file in files:
                    name = (Path(folder) / file).relative_to(self.directory).as_posix()
                    if name.startswith(prefix) and not TEMPORARY.fullmatch(file):
                        found[name] = _file_stamp(os.path.join(folder, file))
        return dict(sorted(found.items()))

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        path = self._path(name)
        with local_files(path), open_regular(path) as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)

    def write(self, name: str, data: bytes) -> None:
        write_bytes(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        return create_file(self._path(name), data)

    def write_file(self, name: str, path: Path) -> None:
        with (
            local_files(path),
            path.open("rb") as source,
            whole_file(self._path(name)) as temporary,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)

    def fetch(self, name: str, path: Path, *, size: int) -> None:
        source = self._path(name)
        with local_files(source):
            found = source.stat().st_size
        if found != size:
            raise wrong_size(str(source), found, size)
        with whole_file(path, durable=False) as temporary:
            shutil.copyfile(source, temporary)
            if (found := temporary.stat().st_size) != size:
                raise wrong_size(str(source), found, size)

    def delete(self, name: str) -> None:
        path = self._path(name)
        with local_files(path):
            path.unlink(missing_ok=True)
