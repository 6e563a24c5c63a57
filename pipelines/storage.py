"""Where things are read from and written to: paths against SRMILL_HOME, written atomically."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import UserError


def home() -> Path:
    """What relative paths are resolved against: SRMILL_HOME, else the current directory.

    Raises:
        UserError: inside a submitted Ray job without SRMILL_HOME, whose current directory is an
            uploaded copy of the repository that the cluster deletes.
    """
    if value := os.environ.get("SRMILL_HOME"):
        return Path(value).resolve()
    if in_submitted_job():
        raise UserError(
            "SRMILL_HOME is not set, so results of this submitted job would land in an uploaded "
            "copy that the cluster deletes: submit with --runtime-env-json "
            '\'{"env_vars": {"SRMILL_HOME": "/a/shared/folder"}}\' or set it on the cluster.'
        )
    return Path.cwd()


def in_submitted_job() -> bool:
    """True in the entry point of `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def resolve(location: str | Path) -> Path:
    """An absolute path for a configured location.

    Raises:
        UserError: `s3://…`, where only a folder will do.
    """
    if "://" in str(location):
        raise UserError(f"'{location}' is not a path: a local folder is needed here.")
    try:
        path = Path(location).expanduser()
    except RuntimeError as error:
        raise UserError(f"'{location}' is no path: {error}.") from None
    return path if path.is_absolute() else home() / path


def absolute_location(location: str) -> str:
    """A configured location that means the same everywhere: an absolute path, or `s3://…` as it
    is (its scheme is checked where it is opened)."""
    return location if "://" in location else str(resolve(location))


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory that appears at `target`, instead of an older one, when the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            target.rename(old / "replaced")
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, readable by people, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, in ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """sha256 of a JSON value in canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
