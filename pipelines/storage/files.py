"""Writes local files and folders whole or not at all, and explains errors of the file system."""

import atexit
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.errors import UserError

# The names of temporary files in whole_file: the write goes on, or was cut short.
TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}")
# The bytes of a file's name that its temporary file repeats; file systems allow 255 in all.
_REPEATED = 200


class MissingFileError(UserError, FileNotFoundError):
    """No file of this name exists."""


def no_file(where: object) -> MissingFileError:
    """Returns the error for a file that does not exist."""
    return MissingFileError(f"there is no file {where}: correct the name, or write it first.")


@contextmanager
def local_files(path: Path) -> Iterator[None]:
    """Turns errors of the file system in the block into UserErrors that name `path`.

    Raises:
        MissingFileError: a file does not exist.
        UserError: the disk is full, or the file system refuses for another reason.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise no_file(path) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk that holds {path} is full: free some space there or use another one."
            ) from error
        raise UserError(
            f"cannot use {path} ({error.strerror or error}): correct the path or its rights."
        ) from error


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to read, which somebody else may have put there.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a socket: a pipe would wait for a
            writer for ever, and a device may never end.
    """
    # Without O_NONBLOCK the opening itself would wait.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(handle).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    except OSError:
        os.close(handle)
        raise
    return open(handle, "rb")


@contextmanager
def new_directory(target: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Gives a temporary directory, which becomes `target` when the block succeeds.

    Args:
        check: raises an error if the folder at `target` must not be replaced. It is called after
            the block, which may take long. Without it, no folder is replaced.

    Raises:
        OSError: the file system refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    # Unlike tempfile's, its rights follow the umask, and so do those of the files below.
    temporary.mkdir()
    try:
        yield temporary
        if check is not None and target.exists():
            check()
            old = _temporary(target)
            old.mkdir()
            target.rename(old / "replaced")
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def process_directory() -> Path:
    """Returns a new directory that is removed at the end of this process.

    Raises:
        OSError: the file system refuses.
    """
    directory = tempfile.mkdtemp(prefix="srmill-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Gives a temporary file beside `path`, which replaces `path` when the block succeeds.

    An error of the file system in the block is told as an error of `path`. The caller therefore
    opens the files that it reads before the block.

    Args:
        durable: forces the bytes to the disk before the file gets its name. Copies that their
            readers verify, and can fetch again, do not need it.

    Raises:
        UserError: the file system refuses.
    """
    with local_files(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            yield temporary
            if durable:
                os.fsync(handle)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def _temporary(path: Path) -> Path:
    """Returns a fresh name beside `path` that TEMPORARY matches."""
    name = os.fsencode(path.name)[:_REPEATED].decode(errors="ignore")
    return path.with_name(f".{name}-{secrets.token_hex(4)}")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        UserError: the file system refuses.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def create_file(path: Path, data: bytes) -> bool:
    """Writes a file, whole or not at all, unless `path` exists; returns whether it did.

    Raises:
        UserError: the file system refuses, or has no hard links.
    """
    with local_files(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        write_bytes(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
    return True


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all; raises as `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Returns the JSON value in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON.
    """
    return json.loads(path.read_bytes())


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
