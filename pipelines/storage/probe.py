"""Tells whether a node has the driver's folder, by a file that it must find there.

On separate disks a path means another folder on each node. A probe notices this before any work
is done, where a missing file would end the work late, or be taken for a damaged one.
"""

import glob
import hashlib
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UserError
from pipelines.storage.files import local_files, write_bytes

#: Bytes of a file that are compared: its beginning tells two files apart as well as all of it.
_HEAD = 1 << 20


@dataclass(frozen=True)
class Witness:
    """A file that every node must find as the driver's node has it; can be pickled.

    Attributes:
        folder: the folder that the nodes must share, absolute.
        name: the file's path in the folder.
        mark: digest of the file's size and beginning.
        node: the driver's node.
        remedy: the setting that names the folder, and what to do instead of sharing it.
    """

    folder: Path
    name: str
    mark: str
    node: str
    remedy: str

    @classmethod
    def of(cls, folder: Path, name: str, remedy: str) -> "Witness":
        """Describes a file of the driver's node.

        Raises:
            UserError: the file cannot be read.
        """
        with local_files(folder / name):
            return cls(folder, name, _mark(folder / name), socket.gethostname(), remedy)

    def check(self) -> None:
        """Checks that this node has the file; reads at most one MiB.

        Raises:
            UserError: the node does not have it, or has another one.
        """
        try:
            found = _mark(self.folder / self.name)
        except OSError as error:
            found = error.strerror or type(error).__name__
        if found != self.mark:
            raise UserError(
                f"node {socket.gethostname()} does not see the folder {self.folder} as node "
                f"{self.node}, where the job runs, sees it ({self._lack(found)}): {self.remedy}."
            )

    def _lack(self, found: str) -> str:
        reason = "another content" if len(found) == len(self.mark) else found.lower()
        return f"{self.name}: {reason}"


@contextmanager
def token(folder: Path, owner: str, remedy: str) -> Iterator[Witness]:
    """Keeps a file with a random name and content in a folder for the time of the block.

    The name is new each time, so that no node has an answer for it in a cache.

    Args:
        owner: part of the name. Only one process at a time may keep a token of this owner; the
            tokens that killed processes left are removed.
        remedy: see `Witness`.

    Raises:
        UserError: the folder cannot be written.
    """
    value = uuid.uuid4().hex
    # The eight digits make it a temporary file for all who list the folder.
    start, name = f".{owner}.token-", f".{owner}.token-{value[:8]}"
    with local_files(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{glob.escape(start)}*"):
            left.unlink(missing_ok=True)
    write_bytes(folder / name, value.encode())
    try:
        yield Witness.of(folder, name, remedy)
    finally:
        with suppress(OSError):
            (folder / name).unlink()


def _mark(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        return hashlib.sha256(b"%d:" % size + file.read(_HEAD)).hexdigest()
