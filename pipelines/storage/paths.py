"""Where relative paths lead: SRMILL_HOME, the same place for every process of a job."""

import os
from pathlib import Path

from pipelines.errors import UserError

#: The checkout, or the copy of it that Ray uploads.
ROOT = Path(__file__).resolve().parents[2]


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
