"""Resolves relative paths against SRMILL_HOME, so that all processes of a job find one place.

`node_folder.py` resolves those of which every node has its own.
"""

import errno
import os
from pathlib import Path

from pipelines.errors import UserError, told

#: The checkout, or the copy of it that Ray uploads.
ROOT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """Returns the folder that relative paths start from: SRMILL_HOME, else the current directory.

    Raises:
        UserError: SRMILL_HOME is no path; or a submitted Ray job has none. Its current directory is
            an uploaded copy of the repository, which the cluster deletes.
    """
    if value := os.environ.get("SRMILL_HOME"):
        if "://" in value:
            raise UserError(f"SRMILL_HOME is '{told(value)}', and no path: set it to a folder.")
        try:
            return check_path(value).resolve()
        except RuntimeError:
            raise UserError("SRMILL_HOME is a link to itself: set it to a folder.") from None
    if in_submitted_job():
        raise UserError(
            "SRMILL_HOME is not set, so results of this submitted job would land in an uploaded "
            "copy that the cluster deletes: submit with --runtime-env-json "
            '\'{"env_vars": {"SRMILL_HOME": "/a/shared/folder"}}\' or set it on the cluster.'
        )
    return Path.cwd()


def in_submitted_job() -> bool:
    """Returns True in the process that `ray job submit` starts."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def resolve(location: str | Path) -> Path:
    """Returns the absolute path of a configured location.

    Raises:
        UserError: the location is a URL such as `s3://…`, or no path at all, see `check_path`.
    """
    if "://" in str(location):
        raise UserError(f"'{told(location)}' is not a path: a local folder is needed here.")
    path = check_path(location)
    return path if path.is_absolute() else home() / path


def check_path(location: str | Path) -> Path:
    """Returns a path, with the home directory in place of `~`; it need not exist.

    Raises:
        UserError: the path is empty, the home directory in it is unknown, or no file can have such
            a name.
    """
    try:
        if not str(location):
            raise UserError("the path is empty: name a folder, or '.' for the current one.")
        path = Path(location).expanduser()
        os.stat(path)
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        raise UserError(f"'{told(location)}' is no path: {error}.") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"the path '{str(location)[:40]}…' is too long: shorten it.") from None
    return path


def absolute_location(location: str) -> str:
    """Returns a configured location in a form that means the same in every process.

    A path becomes absolute. A URL stays as it is: `open_store` checks its scheme.

    Raises:
        UserError: the path cannot be resolved.
    """
    return location if "://" in location else str(resolve(location))
