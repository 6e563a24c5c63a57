"""Starts and stops the local platform, and keeps its addresses in work/platform.json.

All servers listen on 127.0.0.1 only. Ray asks for the token in work/ray_token, which only its user
can read. MLflow has no token: every user of this machine reaches it.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
from filelock import FileLock

from pipelines.cluster import check_interpreter
from pipelines.errors import UserError
from pipelines.ray_auth import keep_token, private_environment, token_environment
from pipelines.storage.files import write_json
from pipelines.storage.paths import ROOT
from pipelines.storage.typed import Document, read_typed, to_dict

START_TIMEOUT = 120
STOP_TIMEOUT = 20
ANSWER_TIMEOUT = 60


class PlatformError(RuntimeError):
    """The platform cannot start, or a job on it failed; the message says what to do."""


@dataclass(frozen=True)
class Platform(Document):
    """A running platform: its home, and the addresses of its servers."""

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "run `make down`, and then `make up`"

    home: str
    ray_address: str
    dashboard: str
    mlflow: str

    def describe(self) -> str:
        """Returns the addresses, and how to submit a job and to stop, in a line each."""
        token = token_environment(self.token_file).items()
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in token)
        ray = shlex.quote(str(Path(sys.executable).parent / "ray"))
        return (
            f"Ray         {self.dashboard} (dashboard and job server)\n"
            f"MLflow      {self.mlflow}\n"
            f"Results     {self.home}/work\n"
            f"Token       export {settings}\n"
            f"Submit      {settings} {ray} job submit --address {self.dashboard} "
            "--working-dir . -- jobs/stage1.py --help\n"
            "Stop        make down"
        )

    @property
    def token_file(self) -> Path:
        """The file with the token that Ray asks for."""
        return token_file(Path(self.home))

    def alive(self) -> bool:
        """Returns True if both servers answer, Ray to the token. On a busy machine they may need up
        to `ANSWER_TIMEOUT` seconds; a server or a token that is gone is not waited for."""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while self.token_file.exists():
            if self.ray_answers() and self.mlflow_answers():
                return True
            if time.monotonic() > deadline or len(_servers(Path(self.home))) < 2:
                return False
            time.sleep(1)
        return False

    def ray_answers(self) -> bool:
        """Returns True if the dashboard answers to the token."""
        token = self.token_file.read_text()
        return _answers(f"{self.dashboard}/api/version", {"Authorization": f"Bearer {token}"})

    def mlflow_answers(self) -> bool:
        """Returns True if MLflow answers."""
        return _answers(f"{self.mlflow}/health")


def state_file(home: Path) -> Path:
    """Returns the path of the file that describes the running platform."""
    return home / "work" / "platform.json"


def token_file(home: Path) -> Path:
    """Returns the path of the file with the token that Ray asks for."""
    return home / "work" / "ray_token"


def load(home: Path = ROOT) -> Platform | None:
    """Returns the platform that was started last; None if it was stopped since.

    Raises:
        UserError: the file that describes it is damaged, or of another version.
    """
    path = state_file(home)
    return read_typed(Platform, path.read_bytes(), str(path)) if path.exists() else None


def up(home: Path = ROOT) -> Platform:
    """Starts the platform, or finds the one that runs already; returns it.

    Raises:
        PlatformError: a server did not come up; the message names its log.
        UserError: Ray cannot start workers with this Python.
    """
    state_file(home).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(state_file(home).with_suffix(".lock")):
        running = _running(home)
        if running is not None:
            return running
        check_interpreter()
        try:
            return _start_all(home)
        except BaseException:
            down(home, quiet=True)
            raise


def _running(home: Path) -> Platform | None:
    """Returns the platform that runs. Stops what is left of one that does not answer."""
    told = ""
    try:
        platform = load(home)
        if platform is not None and platform.alive():
            return platform
        if platform is not None:
            told = "The platform does not answer any more: starting it anew."
    except UserError as error:
        told = f"Starting the platform anew, since {error}"
    if told:
        print(told, flush=True)
    down(home, quiet=True)
    return None


def _start_all(home: Path) -> Platform:
    """Starts the servers and waits until they answer; raises as `up`."""
    logs = home / "work" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (home / "work" / "mlflow").mkdir(exist_ok=True)
    keep_token(token_file(home))
    # The next free port replaces an occupied one. 10002 to 19999 are for Ray's workers. From 32768
    # on, any connection may take a port before Ray does.
    ports = free_ports({"Ray": 6379, "dashboard": 8265, "client": 20001, "MLflow": 5000})
    ports |= free_ports({"agent": 21001, "agent grpc": 22001, "metrics": 23001, "runtime": 24001})
    platform = Platform(
        home=str(home),
        ray_address=f"127.0.0.1:{ports['Ray']}",
        dashboard=f"http://127.0.0.1:{ports['dashboard']}",
        mlflow=f"http://127.0.0.1:{ports['MLflow']}",
    )
    environment = _environment(platform)
    print("Starting Ray and MLflow …", flush=True)
    ray = _start(_ray_command(ports), environment, logs / "ray.log")
    mlflow = _start(_mlflow_command(ports, home), environment, logs / "mlflow.log")
    write_json(state_file(home), to_dict(platform))
    _wait("Ray", platform.ray_answers, ray, logs / "ray.log")
    _wait("MLflow", platform.mlflow_answers, mlflow, logs / "mlflow.log")
    return platform


def _environment(platform: Platform) -> dict[str, str]:
    """Returns the environment of the servers, which Ray hands on to the jobs."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        **private_environment(platform.token_file),
        "SRMILL_HOME": platform.home,
        "MLFLOW_TRACKING_URI": platform.mlflow,
        # The server would start idle processes for evaluations of language models.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"),
    }
    environment.pop("RAY_ADDRESS", None)
    return environment


def _ray_command(ports: Mapping[str, int]) -> list[str]:
    return [
        "ray", "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={ports['Ray']}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}",
        f"--ray-client-server-port={ports['client']}",
        f"--dashboard-agent-listen-port={ports['agent']}",
        f"--dashboard-agent-grpc-port={ports['agent grpc']}",
        f"--metrics-export-port={ports['metrics']}",
        f"--runtime-env-agent-port={ports['runtime']}",
    ]  # fmt: skip


def _mlflow_command(ports: Mapping[str, int], home: Path) -> list[str]:
    return [
        "mlflow", "server", "--host=127.0.0.1", f"--port={ports['MLflow']}", "--workers=1",
        f"--backend-store-uri=sqlite:///{home}/work/mlflow/mlflow.db",
        # Clients write artifacts to disk themselves, so they stay readable without the server.
        f"--default-artifact-root={(home / 'work' / 'mlflow' / 'artifacts').as_uri()}",
        "--no-serve-artifacts",
    ]  # fmt: skip


def down(home: Path = ROOT, quiet: bool = False) -> None:
    """Stops what `up` started and nothing else. Results stay."""
    # The processes themselves say whose they are: the file may be lost or damaged.
    servers = _servers(home)
    noted = state_file(home).exists()
    if not servers and not noted:
        if not quiet:
            print("Nothing to stop: the local platform is not running.")
        return
    _stop(servers)
    with contextlib.suppress(UserError):
        _forget(load(home))
    state_file(home).unlink(missing_ok=True)
    if not quiet:
        print(f"Stopped the local platform; results stay in {home}/work.")


def _forget(platform: Platform | None) -> None:
    """Removes Ray's note that this platform runs. Another cluster may get its port."""
    from ray._common.utils import reset_ray_address
    from ray._private.utils import read_ray_address

    if platform is not None and read_ray_address() == platform.ray_address:
        reset_ray_address()


def _stop(servers: Sequence[psutil.Process]) -> None:
    """Stops servers and the processes that they have started."""
    processes: dict[int, psutil.Process] = {}
    for server in servers:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes |= {p.pid: p for p in (server, *server.children(recursive=True))}
            server.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(list(processes.values()), timeout=STOP_TIMEOUT)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def free_ports(wanted: dict[str, int]) -> dict[str, int]:
    """Returns each name's wanted port, or the next free one; prints a line where a server that
    people open has another one than usual.

    Raises:
        PlatformError: none of the hundred ports from the wanted one on is free.
    """
    chosen: dict[str, int] = {}
    for name, first in wanted.items():
        for port in range(first, first + 100):
            if port not in chosen.values() and _is_free(port):
                break
        else:
            raise PlatformError(
                f"ports {first} to {first + 99} are all taken: free one for {name}."
            )
        if port != first and name in ("dashboard", "MLflow"):
            print(f"Port {first} is taken, so {name} listens on {port}.")
        chosen[name] = port
    return chosen


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _servers(home: Path) -> list[psutil.Process]:
    """Returns the servers that `up` started for a home and that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = {Path(part).name for part in process.cmdline()}
            is_server = {"ray", "start"} <= words or {"mlflow", "server"} <= words
            if is_server and process.environ().get("SRMILL_HOME") == str(home):
                found.append(process)
    return found


def _start(command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    executable = Path(sys.executable).parent / command[0]
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(executable), *command[1:]],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(
    name: str, answers: Callable[[], bool], server: "subprocess.Popen[bytes]", log: Path
) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not answers():
        if server.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise PlatformError(f"{name} did not start; the end of {log}:\n{tail}")
        time.sleep(0.5)


def _answers(url: str, headers: Mapping[str, str] | None = None) -> bool:
    request = urllib.request.Request(url, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=3) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False
