"""The secrets of the full platform: a file for each in work/secrets, which only its user reads."""

import stat
from pathlib import Path

from pipelines.ray_auth import keep_token
from pipelines.storage.files import whole_file

#: The user who submits jobs, in MLflow and in S3.
JOBS = "srmill"


def secret(home: Path, name: str) -> str:
    """Returns a secret of a home; makes it if there is none yet.

    One that is there stays, since databases know it. Others may not read it from now on.

    Args:
        home: the platform's home.
        name: what it opens: `mlflow-admin`, `s3-jobs`, and so on.
    """
    path = home / "work" / "secrets" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        keep_token(path)
    for each in (path.parent, path):
        mode = stat.S_IMODE(each.stat().st_mode)
        if mode & 0o077:
            each.chmod(mode & 0o700)
    return path.read_text()


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only this user can read, whole or not at all."""
    with whole_file(path) as file:
        file.chmod(0o600)  # while it is empty
        file.write_bytes(data)
