"""Starts jobs/retrain.py under a name: on this machine, or on a cluster by Ray's job server.

A name is started once: a trigger that was killed finds again what it has started.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import psutil

from pipelines import tracing
from pipelines.config.addresses import check_place
from pipelines.config.keys import Place
from pipelines.errors import UserError
from pipelines.job import BUDGET_SPENT, BUSY, NOT_PROMOTED
from pipelines.storage.files import local_files
from pipelines.storage.paths import ROOT, resolve
from pipelines.triggers.job_server import JobServer

JOB = "jobs/retrain.py"
#: The variable that tells whose a job's processes are.
MARK = "SRMILL_TRIGGERED"
#: Where a job of this machine leaves its exit code.
CODES = "work/watch"
#: Runs a job, waits for it whatever comes, and writes its code. A file appears whole.
_SHELL = 'trap : TERM INT HUP; "$@"; echo $? > "$0.new"; mv "$0.new" "$0"'
_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class Status(StrEnum):
    """The state of a job."""

    #: It never began, or was interrupted: the same start goes on with it.
    ABSENT = "absent"
    RUNS = "runs"
    #: It did its work; the gate may have refused what came of it.
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Its budget ended it: somebody has to decide whether it gets a larger one.
    STOPPED = "stopped"
    #: Another retraining of its model was at work: another start tries again.
    BUSY = "busy"

    @property
    def told(self) -> str:
        """The end of the job in words, as a line tells it after its name."""
        return {
            Status.STOPPED: "was stopped by its budget",
            Status.BUSY: "found another retraining of its model at work",
        }.get(self, f"has {self}")

    @property
    def is_final(self) -> bool:
        """True if the job is over, so that only new photos, or time, start another one."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.STOPPED)


#: The statuses of jobs that ended with other codes than those of failures.
_BY_CODE = {
    0: Status.SUCCEEDED,
    NOT_PROMOTED: Status.SUCCEEDED,
    BUDGET_SPENT: Status.STOPPED,
    BUSY: Status.BUSY,
}


class Starter(Protocol):
    """A place where retrainings run."""

    where: str
    """The place in words."""

    def status(self, job: str) -> Status:
        """Returns what became of the job of this name."""

    def start(self, job: str, settings: Sequence[str]) -> None:
        """Starts jobs/retrain.py with these settings; returns when it has begun.

        Raises:
            UserError: it cannot be started there.
        """

    def wait(self, job: str) -> None:
        """Waits for a job that `start` has begun on this machine; does nothing for a cluster's."""

    def stop(self) -> None:
        """Asks the jobs that `start` has begun on this machine to save their work, and waits."""


def choose_starter(address: str | None) -> Starter:
    """Returns the job server at an address; without one, this machine.

    Without an address it is that of $RAY_API_SERVER_ADDRESS, or of $RAY_ADDRESS if that is http(s).

    Raises:
        UserError: the address has another form, or there is no checkout.
    """
    if not (ROOT / JOB).is_file():
        raise UserError(
            f"there is no {JOB} beside this installation: install SRMill from a checkout "
            "(`make setup`), and start its srmill."
        )
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    ray = os.environ.get("RAY_ADDRESS", "")
    if given is None and ray.startswith(("http://", "https://")):
        given = ray
    if given is None:
        return Here()
    check_place("the address of the job server", given, Place.WEB)
    return OnCluster(JobServer(given))


class Here:
    """This machine. The job joins the cluster that runs here, or at RAY_ADDRESS, or starts Ray."""

    where = "this machine"

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def status(self, job: str) -> Status:
        if self._processes(job):
            return Status.RUNS
        code = _read_code(_code_file(job))
        if code is None or code in _INTERRUPTED:
            return Status.ABSENT
        return _BY_CODE.get(code, Status.FAILED)

    def start(self, job: str, settings: Sequence[str]) -> None:
        file = _code_file(job)
        with local_files(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        command = [sys.executable, str(ROOT / JOB), *settings]
        self._started[job] = subprocess.Popen(
            ["sh", "-c", _SHELL, str(file), *command],
            env=os.environ | {MARK: str(file)} | tracing.environment(),
            stdin=subprocess.DEVNULL,
        )

    def wait(self, job: str) -> None:
        self._started[job].wait()

    def stop(self) -> None:
        for shell in self._started.values():
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(shell.pid).children():
                    child.send_signal(signal.SIGTERM)
            shell.wait()

    def _processes(self, job: str) -> list[psutil.Process]:
        """Returns the processes of a job: the shell and the job itself."""
        if (shell := self._started.get(job)) is not None:
            shell.poll()  # so that none is left that has ended
        found, mark = [], str(_code_file(job))
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                is_job = any(word.endswith(JOB) for word in process.cmdline())
                if is_job and process.environ().get(MARK) == mark:
                    found.append(process)
        return found


class OnCluster:
    """A cluster with a job server. The name is the job's id there, which Ray gives only once."""

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self.where = f"the cluster at {server.address}"

    def status(self, job: str) -> Status:
        status = self._server.status(job)
        known = {None: Status.ABSENT, "SUCCEEDED": Status.SUCCEEDED, "PENDING": Status.RUNS,
                 "RUNNING": Status.RUNS}  # fmt: skip
        if status == "FAILED" and (code := self._server.exit_code(job)) is not None:
            return _BY_CODE.get(code, Status.FAILED)
        return known.get(status, Status.FAILED)

    def start(self, job: str, settings: Sequence[str]) -> None:
        self._server.submit(shlex.join([JOB, *settings]), job, tracing.environment())

    def wait(self, job: str) -> None:
        """Returns at once: the cluster keeps the job."""

    def stop(self) -> None:
        """Does nothing: the cluster keeps its jobs."""


def _code_file(job: str) -> Path:
    return resolve(CODES) / f"{job}.code"


def _read_code(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
