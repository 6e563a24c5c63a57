"""Reads one file of a source, in a task on any node.

It reads members of archives in place and never unpacks them. Their names are only labels, so a name
such as `../../x.png` does no harm.
"""

import lzma
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from pipelines.data.images import UnusableError
from pipelines.errors import UserError
from pipelines.storage.files import open_regular
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import Store, check_name, open_store

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
    ".jp2", ".ppm", ".pgm", ".pnm", ".tga",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A file that looks like a photo.

    Attributes:
        container: the folder, `s3://` prefix or archive that holds the file.
        name: the path in the container.
        size: the number of bytes.
        offset: the offset of the first byte in a tar, or of the member's header in a zip, where two
            members may have one name.
        split: the split of the photo, if its public set gives one.
        policy: limits the waiting for object storage.
        held_out: True for a photo of `shard.val_source`.
        mark: changes when the file is replaced: the ETag of an object, or the time of the last
            change of the file or its archive, ns, with the offset in an archive; empty where a
            store gives none.
    """

    kind: Literal["file", "zip", "tar"]
    container: str
    name: str
    size: int
    offset: int = 0
    split: str | None = None
    policy: RetryPolicy = RetryPolicy()
    held_out: bool = False
    mark: str = ""

    @property
    def label(self) -> str:
        """The name to print and store."""
        return printable(self.name)


def printable(path: str) -> str:
    """Returns a path of the file system in valid UTF-8, even if its name there is not."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_photo_name(name: str) -> bool:
    """Returns True for a photo's extension, except in hidden files and macOS's resource forks."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return not hidden and "__MACOSX" not in path.parts and path.suffix.lower() in EXTENSIONS


def read(entry: Entry, max_bytes: int) -> bytes:
    """Returns the bytes of a photo file.

    Raises:
        UnusableError: the file is larger than `max_bytes`, gone, unreadable, or damaged in its
            archive.
        UserError: object storage does not answer.
    """
    if entry.size > max_bytes:
        reason = f"too large a file ({entry.size / 2**20:.0f} MiB: shard.max_file_mib)"
        raise UnusableError(reason, failure=True)
    try:
        check_name(entry.name if entry.kind == "file" else "archived")
    except UserError:
        raise UnusableError("a name that cannot be addressed", failure=True) from None
    try:
        if entry.kind == "zip":
            return _read_zip(entry, max_bytes)
        if entry.container.startswith("s3://"):
            data = _store(entry.container, entry.policy).read(entry.name)
        else:
            whole = entry.kind == "file"
            path = Path(entry.container) / entry.name if whole else Path(entry.container)
            with open_regular(path) as file:
                file.seek(entry.offset)
                data = file.read() if whole else file.read(entry.size)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or 'it is gone'})"
        raise UnusableError(reason, failure=True) from None
    if len(data) < entry.size:
        raise UnusableError("cut short while it was read", failure=True)
    return data


@lru_cache(maxsize=8)
def _store(container: str, policy: RetryPolicy) -> Store:
    """Returns one store for all photos: a new client takes longer than reading a photo."""
    return open_store(container, policy=policy)


def _read_zip(entry: Entry, max_bytes: int) -> bytes:
    try:
        with zipfile.ZipFile(entry.container) as archive:
            known = {info.header_offset: info for info in archive.infolist()}
            with archive.open(known[entry.offset]) as member:
                # Headers may give a wrong size, so the limit holds for the read too.
                data = member.read(max_bytes + 1)
    except NotImplementedError as error:
        raise UnusableError(f"packed in a way unknown here ({error})", failure=True) from None
    except RuntimeError:  # zipfile raises it for a password
        raise UnusableError("encrypted", failure=True) from None
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, ValueError,
    ) as error:  # fmt: skip
        raise UnusableError(f"damaged in its archive ({error})", failure=True) from None
    except OSError as error:
        if error.errno is not None:
            raise
        # bz2 raises it for damaged bytes.
        raise UnusableError(f"damaged in its archive ({error})", failure=True) from None
    if len(data) > max_bytes:
        raise UnusableError("unpacks to more than it says (a zip bomb)", failure=True)
    return data
