"""Writes and reads folders of files, whole or not at all, in a directory or under s3://.

Object storage replaces one object at a time. So a folder there has a marker: a file of it that is
deleted before the others are replaced, and written after them. Without the marker there is no
folder for any reader. One job at a time may write a folder.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import UserError
from pipelines.storage.files import new_directory
from pipelines.storage.ownership import PENDING
from pipelines.storage.store import LocalStore, Store


@contextmanager
def new_folder(store: Store, marker: str, check: Callable[[], None]) -> Iterator[Path]:
    """Gives a temporary directory, whose files replace those of `store` when the block succeeds.

    Args:
        marker: the name of the folder's marker; the block writes it like the other files.
        check: raises an error if what `store` holds must not be replaced. It is called after the
            block, which may take long.

    Raises:
        OSError: the file system refuses.
        UserError: the store fails.
    """
    if isinstance(store, LocalStore):
        with new_directory(store.directory, check) as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory(prefix="srmill-") as directory:
        yield Path(directory)
        check()
        _publish(Path(directory), store, marker)


def _publish(directory: Path, store: Store, marker: str) -> None:
    files = {
        path.relative_to(directory).as_posix(): path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    last = files.pop(marker)
    store.write(PENDING, b"")
    store.delete(marker)
    for name, path in files.items():
        store.write_file(name, path)
    for name in store.names():
        if name not in files and name != PENDING:
            store.delete(name)
    store.write_file(marker, last)
    store.delete(PENDING)


def fetch_folder(store: Store, marker: str, directory: Path) -> None:
    """Copies all files of a folder into a local directory.

    Raises:
        MissingFileError: the store holds no marker.
        UserError: the store fails, or the folder was replaced meanwhile.
    """
    with unchanged(store, marker):
        for name, size in store.sizes().items():
            if name != PENDING:
                store.fetch(name, directory / name, size=size)


@contextmanager
def unchanged(store: Store, marker: str) -> Iterator[bytes]:
    """Gives the content of a folder's marker, and checks that the block read the files beside it.

    Raises:
        MissingFileError: the store holds no marker.
        UserError: the store fails, or the folder was replaced during the block.
    """
    before = store.read(marker)
    yield before
    if store.size(marker) is None or store.read(marker) != before:
        raise UserError(
            f"{store.location} was replaced while it was read: run the same command again when "
            "the other job has ended."
        )
