"""Names benchmark sets, and finds their image files: in a folder, in a bucket, or in SRMill."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.data.sources.entries import EXTENSIONS, is_photo_name
from pipelines.errors import UserError, listing
from pipelines.storage.files import file_sha256
from pipelines.storage.paths import resolve
from pipelines.storage.probe import Witness
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import Store, open_store

#: Names the validation split of `data`.
VALIDATION = "validation"
#: Names the set that comes with SRMill.
EMBEDDED = "embedded"
#: Its crops, and where they come from (CREDITS.md).
EMBEDDED_FOLDER = Path(__file__).parents[1] / "evaluation" / "embedded"


class ImageFile(Protocol):
    """An image file on a disk, in a bucket or in memory. As text it is its place, for messages."""

    def read_bytes(self) -> bytes:
        """Returns the content.

        Raises:
            OSError: the disk fails.
            UserError: the bucket fails.
        """


@dataclass(frozen=True)
class StoredFile:
    """A file under an s3:// prefix. Every node reads it there."""

    store: Store
    name: str

    def __str__(self) -> str:
        return f"{self.store.location}/{self.name}"

    def read_bytes(self) -> bytes:
        return self.store.read(self.name)


@dataclass(frozen=True)
class HeldFile:
    """A file that takes its content along: SRMill lies in another folder on each node."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        return self.content


def parse_names(benchmark: Any) -> list[str]:
    """Returns the sets that `benchmark=` names: one, several with commas between, or a list.

    Raises:
        UserError: it names nothing, or two sets of the same name.
    """
    if benchmark is None:
        return [VALIDATION]
    values = benchmark if isinstance(benchmark, list) else str(benchmark).split(",")
    names = [str(value).strip() for value in values]
    if not names or not all(names):
        raise UserError("benchmark names nothing: give a folder, or several with commas between.")
    titles = [title_of(name) for name in names]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise UserError(f"two benchmark sets are called {listing(twice)}: rename one's folder.")
    return names


def find_files(location: str, policy: RetryPolicy = RetryPolicy()) -> Mapping[str, ImageFile]:
    """Returns the image files of a benchmark set by their names in it, sorted.

    Args:
        location: a folder, an `s3://` prefix, or `embedded`.
        policy: limits the waiting for object storage.

    Raises:
        UserError: there is no such folder, it holds no image, or the store fails.
    """
    files: dict[str, ImageFile]
    if location == EMBEDDED:
        paths = sorted(EMBEDDED_FOLDER.glob("*.webp"))
        return {path.name: HeldFile(path.name, path.read_bytes()) for path in paths}
    if location.startswith("s3://"):
        store = open_store(location, policy=policy)
        files = {name: StoredFile(store, name) for name in store.names() if is_photo_name(name)}
    else:
        folder = find_folder(location)
        found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
        files = {n: path for n, path in found.items() if is_photo_name(n) and path.is_file()}
    if not files:
        raise UserError(f"{where_is(location)} holds no image: expected {listing(EXTENSIONS)}.")
    return files


def find_folder(location: str) -> Path:
    """Returns a benchmark set's folder.

    Raises:
        UserError: there is no such folder.
    """
    folder = resolve(location)
    if not folder.is_dir():
        raise UserError(
            f"there is no benchmark set '{location}': {folder} is no folder; give the path of one."
        )
    return folder


def where_is(location: str) -> str:
    """Returns where a benchmark set is, for people.

    Raises:
        UserError: there is no such folder. A prefix is not looked at.
    """
    if location == EMBEDDED:
        return "the crops that come with SRMill"
    return location if location.startswith("s3://") else str(find_folder(location))


def title_of(location: str) -> str:
    """Returns the name of a benchmark set in results."""
    return location if location in (VALIDATION, EMBEDDED) else set_name(location)


def set_name(location: str) -> str:
    """Returns the name of a benchmark set in results: that of its folder."""
    if location.startswith("s3://"):
        return location.rstrip("/").rpartition("/")[2]
    return resolve(location).resolve().name


def sha256_of(file: ImageFile) -> str:
    """Returns the sha256 of a file's content.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if isinstance(file, Path):
            return file_sha256(file)
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from None


def witness_of(files: Iterable[ImageFile]) -> Witness | None:
    """Returns the witness of files on a disk; None for others, which every node can read."""
    paths = [file for file in files if isinstance(file, Path)]
    if not paths:
        return None
    first = min(paths)
    remedy = "copy the set to every node under this path, or put it into a folder that all share"
    return Witness.of(first.parent, first.name, remedy)
