"""The secrets of the full platform: a file for each in work/secrets, which only its user reads."""

from pathlib import Path

from pipelines.ray_auth import keep_token

#: The user who submits jobs, in MLflow and in S3.
JOBS = "srmill"


def secret(home: Path, name: str) -> str:
    """Returns a secret of a home; makes it if there is none yet.

    Args:
        home: the platform's home.
        name: what it opens: `mlflow-admin`, `s3-jobs`, and so on.
    """
    return secret_file(home, name).read_text()


def secret_file(home: Path, name: str) -> Path:
    """Returns the file of a secret; makes it if there is none yet."""
    folder = home / "work" / "secrets"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep_token(folder / name)
    return folder / name
