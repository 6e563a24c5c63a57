"""Describes a server of the platform; starts, finds and stops its processes."""

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.storage.paths import ROOT

START_TIMEOUT = 120
STOP_TIMEOUT = 20
#: A log that is larger when its server starts becomes `NAME.log.1`, in place of the one before.
MAX_LOG_BYTES = 64 << 20
#: Names a server in its environment, which all processes that it starts inherit.
MARK = "SRMILL_SERVER"
#: The mark of the process that starts servers again when they die.
KEEPER = "keeper"


class PlatformError(RuntimeError):
    """The platform cannot start, or a job on it failed; the message says what to do."""


def nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Server:
    """A server of the platform.

    Attributes:
        name: the name that people read.
        command: the words that start it; the first is a program of this environment, or a path.
        environment: all of its environment variables.
        log: the file that takes its output.
        address: where its clients reach it.
        answers: returns True if it does its work.
        after: names of servers that answer before this one starts.
        prepare: called before it starts. Called each time, so it leaves alone what is done.
        settle: called when it answers. Called each time, so it leaves alone what is done.
        user: the system's user who runs it; None stands for this one.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    address: str
    answers: Callable[[], bool]
    after: tuple[str, ...] = ()
    prepare: Callable[[], None] = nothing
    settle: Callable[[], None] = nothing
    user: str | None = None

    def start(self) -> psutil.Process:
        """Starts its process, after `prepare`, and returns it."""
        self.prepare()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / self.command[0]), *self.command[1:]],
                env=dict(self.environment) | {MARK: self.name},
                cwd=ROOT if self.user is None else "/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        return psutil.Process(process.pid)

    def wait(self, process: psutil.Process) -> None:
        """Returns when it answers and is settled.

        Raises:
            PlatformError: its process ended, or it does not answer in time. The message holds the
                end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while not self.answers():
            if not is_alive(process) or time.monotonic() > deadline:
                lines = self.log.read_text(errors="replace").splitlines()
                tail = "\n".join(lines[-15:])
                raise PlatformError(f"{self.name} did not start; the end of {self.log}:\n{tail}")
            time.sleep(0.5)
        self.settle()


def is_alive(process: psutil.Process) -> bool:
    """Returns True if a process runs. One that has ended and waits for its parent does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def marked(home: Path) -> list[tuple[str, psutil.Process]]:
    """Returns the processes of a home's servers that run, each with its server's name.

    The processes themselves say whose they are: a file that notes them may be lost.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get("SRMILL_HOME") == str(home) and MARK in environment:
                found.append((environment[MARK], process))
    return found


def running(home: Path, servers: Iterable[Server]) -> dict[str, psutil.Process]:
    """Returns the process of each of these servers that runs, by the server's name."""
    found = marked(home)
    first: dict[str, psutil.Process] = {}
    for server in servers:
        for name, process in found:
            with contextlib.suppress(psutil.Error):
                words = tuple(process.cmdline())[-len(server.command) + 1 :]
                if name == server.name and words == server.command[1:] and is_alive(process):
                    # A program's own start may be a script that stays its parent.
                    first.setdefault(name, process)
    return first


def stop(processes: Iterable[psutil.Process]) -> None:
    """Ends processes and all that they have started; kills what is left after `STOP_TIMEOUT`."""
    family: dict[int, psutil.Process] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family |= {each.pid: each for each in (process, *process.children(recursive=True))}
            process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(list(family.values()), timeout=STOP_TIMEOUT)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def stop_all(home: Path) -> None:
    """Stops the servers of a home, and whatever a killed one has left behind. The keeper goes
    first, since it would start the others again."""
    stop_keeper(home)
    stop(process for _, process in marked(home))


def stop_keeper(home: Path) -> None:
    """Stops the keeper of a home alone: not the servers that it has started again."""
    keepers = [process for name, process in marked(home) if name == KEEPER]
    for process in keepers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(keepers, timeout=5)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def answers(
    url: str, headers: Mapping[str, str] | None = None, ca: Path | None = None
) -> int | None:
    """Returns the status of the answer to a request; None if there is none within 3 s.

    Args:
        url: the address.
        headers: headers of the request.
        ca: the certificates of the authorities that are trusted; by default those of the system.
    """
    try:
        trusted = ssl.create_default_context(cafile=ca) if ca else None
        request = urllib.request.Request(url, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=3, context=trusted) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None


def environment_of(home: Path) -> dict[str, str]:
    """Returns this process's environment, as a server of a home needs it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"PATH": path, "SRMILL_HOME": str(home)}
    environment.pop("RAY_ADDRESS", None)
    return environment


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment without S3's and MLflow's variables. The user's own systems are none
    that these servers may use."""
    others = ("AWS_", "MLFLOW_TRACKING_", "PG")
    return {name: value for name, value in environment.items() if not name.startswith(others)}
