"""The full platform of `make up FULL=1`, whose client a test or a benchmark is."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from infra.local import platform as local_platform
from infra.local.platform import Platform
from pipelines import mlflow_client
from pipelines.errors import UserError
from pipelines.ray_auth import read_again
from pipelines.triggers.job_server import JobServer
from tests.conftest import ROOT

log = logging.getLogger(__name__)

T = TypeVar("T")
#: The longest wait for a platform that is away, in seconds.
PATIENCE_S = 900.0
_OPEN_CLIENT = mlflow_client.open_client


@contextmanager
def full_platform() -> Iterator[Platform]:
    """Gives a full platform, whose client this process is until the block ends.

    Its folder is removed, but where the block raises an error: then it stays to be looked at.
    """
    # Not pytest's folder: started by root, PostgreSQL runs as a user, who must enter it.
    home = Path(tempfile.mkdtemp(prefix="srmill-full-"))
    home.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for name in local_platform.FOREIGN:
            patch.delenv(name, raising=False)
        full = _up(home)
        become_client(full, patch)
        try:
            yield full
        finally:
            local_platform.down(home, quiet=True)
    shutil.rmtree(home, ignore_errors=True)


def _up(home: Path) -> Platform:
    """Starts a full platform by its command, in a process that may read a token of its own."""
    command = [sys.executable, "-m", "infra.local", "up", home, "--full"]
    subprocess.run(command, cwd=ROOT, check=True)
    full = local_platform.load(home)
    assert full is not None
    return full


def become_client(full: Platform, patch: pytest.MonkeyPatch) -> None:
    """Makes this process a client of a platform, as `work/platform.env` makes a shell.

    A test needs it again: `tests/conftest.py` takes the settings away before each.
    """
    for name, value in full.environment().items():
        patch.setenv(name, value)
    patch.setenv("SRMILL_HOME", full.home)
    patch.setattr(mlflow_client, "open_client", _OPEN_CLIENT)
    read_again()  # Ray may have read the session's token.
    assert os.environ["MLFLOW_TRACKING_URI"].startswith("https://")


def patient(work: Callable[[], T]) -> T:
    """Returns what `work` does, however often the platform is away meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except (UserError, OSError) as error:  # Ray's client raises what requests raises
            log.warning("trying again, since %s", error)
            if time.monotonic() > deadline:
                raise
            time.sleep(2)


def until_succeeded(
    server: JobServer,
    entrypoint: str,
    counts: Counter[str],
    *,
    attempts: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Submits a job until it has succeeded, as somebody would who sees that it ended.

    Args:
        counts: what becomes of the jobs is counted here.
        attempts: how often it may be submitted.
        meanwhile: what to do again and again while it runs.

    Raises:
        UserError: it never succeeded. The message holds the end of the last log.
    """
    log = ""
    for _ in range(attempts):
        counts["jobs submitted"] += 1
        job = patient(lambda: server.submit(entrypoint))
        while (status := patient(partial(server.status, job))) in ("PENDING", "RUNNING"):
            meanwhile()
            time.sleep(2)
        if status == "SUCCEEDED":
            return
        if status is None:
            counts["jobs lost with the head"] += 1
        else:
            counts["jobs that failed"] += 1
            log = patient(partial(_log, server, job))
    raise UserError(f"'{entrypoint}' did not succeed {attempts} times: {log[-2000:]}")


def _log(server: JobServer, job: str) -> str:
    return server.client().get_job_logs(job)
