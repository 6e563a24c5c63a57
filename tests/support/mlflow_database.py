"""New MLflow databases without their making, which takes a second: each is a copy of the first."""

import os
import shutil
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient

from pipelines.config.addresses import SQLITE
from pipelines.mlflow_client import open_client
from tests.support.session import FOLDER


def open_copy(uri: str) -> MlflowClient:
    """Does what `open_client` does. A database that is not there yet is copied."""
    path = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and path.parent.is_dir() and not path.exists():
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        shutil.copy(_template(), partial)
        partial.rename(path)
    return open_client(uri)


def _template() -> Path:
    """The session's first database, without a run."""
    path = Path(os.environ[FOLDER]) / "mlflow.db"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            made = path.with_name("new.db")
            open_client(f"{SQLITE}{made}").search_experiments()
            made.rename(path)
    return path
