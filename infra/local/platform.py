"""Starts and stops the local platform, and keeps its addresses in work/platform.json.

Everything listens on 127.0.0.1 only. Ray's token authentication is off: every user of this machine
can use the platform, nobody else.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pipelines.cluster import auth_environment
from pipelines.storage.paths import ROOT

START_TIMEOUT = 120
STOP_TIMEOUT = 20
ANSWER_TIMEOUT = 60


class PlatformError(RuntimeError):
    """The platform cannot start, or a job on it failed; the message says what to do."""


@dataclass(frozen=True)
class Platform:
    """A running platform: its addresses, and the ids of the processes to stop."""

    home: str
    ray_address: str
    dashboard: str
    mlflow: str
    pids: list[int]

    def describe(self) -> str:
        """Returns the addresses, and how to submit a job and to stop, in a line each."""
        settings = " ".join(f"{name}={value}" for name, value in auth_environment().items())
        return (
            f"Ray         {self.dashboard} (dashboard and job server)\n"
            f"MLflow      {self.mlflow}\n"
            f"Results     {self.home}/work\n"
            f"Submit      {settings} ray job submit --address {self.dashboard} "
            "--working-dir . -- jobs/stage1.py --help\n"
            "Stop        make down"
        )

    def alive(self) -> bool:
        """Returns True if both servers answer. On a busy machine they may need up to
        `ANSWER_TIMEOUT` seconds; a process that is gone is not waited for."""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while True:
            if _answers(f"{self.dashboard}/api/version") and _answers(f"{self.mlflow}/health"):
                return True
            if time.monotonic() > deadline or not all(_server(pid) for pid in self.pids):
                return False
            time.sleep(1)


def state_file(home: Path) -> Path:
    """Returns the path of the file that describes the running platform."""
    return home / "work" / "platform.json"


def load(home: Path = ROOT) -> Platform | None:
    """Returns the platform that was started last; None if it was stopped since."""
    path = state_file(home)
    return Platform(**json.loads(path.read_text())) if path.exists() else None


def up(home: Path = ROOT) -> Platform:
    """Starts the platform, or finds the one that runs already; returns it.

    Raises:
        PlatformError: a server did not come up; the message names its log.
    """
    running = load(home)
    if running is not None:
        if running.alive():
            return running
        print("The platform does not answer any more: starting it anew.", flush=True)
        down(home)
    logs = home / "work" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (home / "work" / "mlflow").mkdir(exist_ok=True)
    # The next free port replaces an occupied one. 10002 to 19999 are for Ray's workers. From 32768
    # on, any connection may take a port before Ray does.
    ports = free_ports({"Ray": 6379, "dashboard": 8265, "client": 20001, "MLflow": 5000})
    others = free_ports({"agent": 21001, "agent grpc": 22001, "metrics": 23001, "runtime": 24001})
    mlflow = f"http://127.0.0.1:{ports['MLflow']}"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        **auth_environment(),
        "SRMILL_HOME": str(home),
        "MLFLOW_TRACKING_URI": mlflow,
        # The server would start idle processes for evaluations of language models.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"),
    }
    environment.pop("RAY_ADDRESS", None)
    ray_command = [
        "ray", "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={ports['Ray']}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}",
        f"--ray-client-server-port={ports['client']}",
        f"--dashboard-agent-listen-port={others['agent']}",
        f"--dashboard-agent-grpc-port={others['agent grpc']}",
        f"--metrics-export-port={others['metrics']}",
        f"--runtime-env-agent-port={others['runtime']}",
    ]  # fmt: skip
    mlflow_command = [
        "mlflow", "server", "--host=127.0.0.1", f"--port={ports['MLflow']}", "--workers=1",
        f"--backend-store-uri=sqlite:///{home}/work/mlflow/mlflow.db",
        # Clients write artifacts to disk themselves, so they stay readable without the server.
        f"--default-artifact-root={(home / 'work' / 'mlflow' / 'artifacts').as_uri()}",
        "--no-serve-artifacts",
    ]  # fmt: skip
    print("Starting Ray and MLflow …", flush=True)
    servers = {
        "Ray": _start(ray_command, environment, logs / "ray.log"),
        "MLflow": _start(mlflow_command, environment, logs / "mlflow.log"),
    }
    platform = Platform(
        home=str(home),
        ray_address=f"127.0.0.1:{ports['Ray']}",
        dashboard=f"http://127.0.0.1:{ports['dashboard']}",
        mlflow=mlflow,
        pids=[server.pid for server in servers.values()],
    )
    state_file(home).write_text(json.dumps(asdict(platform), indent=2) + "\n")
    try:
        _wait("Ray", f"{platform.dashboard}/api/version", servers["Ray"], logs / "ray.log")
        _wait("MLflow", f"{platform.mlflow}/health", servers["MLflow"], logs / "mlflow.log")
    except BaseException:
        down(home, quiet=True)
        raise
    return platform


def down(home: Path = ROOT, quiet: bool = False) -> None:
    """Stops what `up` started and nothing else. Results stay."""
    platform = load(home)
    if platform is None:
        if not quiet:
            print("Nothing to stop: the local platform is not running.")
        return
    processes: dict[int, psutil.Process] = {}
    for pid in platform.pids:
        server = _server(pid)
        if server is None:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            processes |= {p.pid: p for p in (server, *server.children(recursive=True))}
            server.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(list(processes.values()), timeout=STOP_TIMEOUT)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
    state_file(home).unlink(missing_ok=True)
    if not quiet:
        print(f"Stopped the local platform; results stay in {home}/work.")


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


def _server(pid: int) -> psutil.Process | None:
    """Returns the server that was started with this id; None if it is gone. The id may belong to
    another process by then."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        names = {Path(part).name for part in process.cmdline()}
        if {"ray", "mlflow"} & names and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


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


def _wait(name: str, url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not _answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise PlatformError(f"{name} did not start; the end of {log}:\n{tail}")
        time.sleep(0.5)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False
