"""Runs the services of a compose file without a container engine, in namespaces of Linux.

    unshare --net --mount --pid --fork --kill-child --mount-proc \
        python -m tests.support.compose FOLDER

Each service runs its own command as its own user, without other capabilities than the file gives
it, on a read-only root that holds this machine's programs and what its image would add. It has a
network and processes of its own, and reaches the others by their names. The program waits for each
health check as the file says, and ends all services when its standard input ends. It does not limit
memory, and its one network does not keep services apart.

The images of others are imitated as far as their documentation goes: PostgreSQL's sets up an empty
volume and runs the scripts of /docker-entrypoint-initdb.d, SeaweedFS' adds flags to `server`, and
the program of Caddy's has the capability to bind low ports. Our own images are this checkout and
its environment, so what the Dockerfile forgets to install is not missed. A new volume belongs to
its service's user. Of a health check, the command and the timeout count: services have four minutes
to be well, whatever its intervals and retries say.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.local.servers.postgres import programs
from tests.conftest import ROOT
from tests.support.container_root import BIN, PROGRAMS, ContainerRoot

#: The file that lists the services' addresses once all of them are well.
READY = "ready.json"
#: The longest wait for one service's health, and for one check where the file does not say.
PATIENCE_S, CHECK_S = 240.0, 30.0
#: See capabilities(7).
CAP_NET_BIND_SERVICE = 10
_POSTGRES = """#!/bin/bash
set -Eeo pipefail
export PATH={programs}:$PATH PGHOST=/var/run/postgresql
sockets="-c unix_socket_directories=$PGHOST"
mkdir -p "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --encoding=UTF8 --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD")
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses='' $sockets" -w start
    for file in /docker-entrypoint-initdb.d/*; do . "$file"; done
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec postgres -c listen_addresses='*' $sockets
"""
_SEAWEEDFS = """#!/bin/sh
shift
exec weed -logtostderr=true server -dir=/data -master.volumePreallocate \\
    -master.volumeSizeLimitMB=1024 "$@"
"""


@dataclass(frozen=True)
class Image:
    """The settings and files that a service takes from its image.

    Attributes:
        files: further files of the image, by their paths.
        programs: programs of this environment that have a file capability, by their numbers.
    """

    environment: Mapping[str, str]
    folder: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, int] = field(default_factory=dict)


def images() -> dict[str, Image]:
    """Returns the images by the name of their repository: our own as the Dockerfile says."""
    path = f"{programs()}:{BIN}:/usr/local/bin:/usr/bin:/bin"
    found = {
        "postgres": Image(
            {"PATH": path, "PGDATA": "/var/lib/postgresql/18/docker"},
            entrypoint=("/docker-entrypoint.sh",),
            command=("postgres",),
            files={"/docker-entrypoint.sh": _POSTGRES.format(programs=programs())},
        ),
        "chrislusf/seaweedfs": Image(
            {"PATH": path},
            folder="/data",
            entrypoint=("/entrypoint.sh",),
            files={"/entrypoint.sh": _SEAWEEDFS},
        ),
        "caddy": Image(
            {"PATH": f"{PROGRAMS}:{path}", "XDG_CONFIG_HOME": "/config", "XDG_DATA_HOME": "/data"},
            folder="/srv",
            command=("caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"),
            programs={"caddy": CAP_NET_BIND_SERVICE},
        ),
    }
    stages = re.split(r"^FROM ", _dockerfile(), flags=re.MULTILINE)[1:]
    for stage in stages:
        named = re.match(r"\S+ AS (\S+)\n", stage)
        if named and named[1] in ("srmill", "mlflow"):
            repository = {"srmill": "srmill", "mlflow": "srmill-mlflow"}[named[1]]
            found[f"registry.example.com/{repository}"] = _own(stage, path)
    return found


def _dockerfile() -> str:
    return (ROOT / "infra/containers/Dockerfile").read_text().replace("\\\n", " ")


def _own(stage: str, path: str) -> Image:
    def instruction(name: str) -> str:
        said = re.findall(rf"^{name} (.*)$", stage, re.MULTILINE)
        return str(said[-1]) if said else ""

    environment = dict(word.split("=", 1) for word in shlex.split(instruction("ENV")))
    environment["PATH"] = environment["PATH"].replace("$PATH", path)
    environment = {k: v for k, v in environment.items() if "$" not in v}
    return Image(
        environment,
        instruction("WORKDIR"),
        tuple(json.loads(instruction("ENTRYPOINT") or "[]")),
        tuple(json.loads(instruction("CMD") or "[]")),
    )


class Compose:
    """The services of a compose file. Its folder holds `compose.yaml`, `.env`, and their data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        variables = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
        self.services: dict[str, dict[str, Any]] = _filled(
            yaml.safe_load((folder / "compose.yaml").read_text()), variables
        )["services"]
        self.addresses = {name: f"10.88.0.{10 + n}" for n, name in enumerate(self.services)}
        self.images = images()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        """Starts each service when those are well that it depends on."""
        for command in (
            "link set lo up", "link add inside type bridge", "addr add 10.88.0.1/24 dev inside",
            "link set inside up",
        ):  # fmt: skip
            ip(command)
        while left := [name for name in self.services if name not in self._processes]:
            ready = [name for name in left if self._may_start(name)]
            for name in ready:
                self._start(name)
            time.sleep(0.5)
        for name, service in self.services.items():
            if "healthcheck" in service:
                self._wait_for(name)
        (self.folder / READY).write_text(json.dumps(self.addresses))

    def _may_start(self, name: str) -> bool:
        for other, how in self.services[name].get("depends_on", {}).items():
            if other not in self._processes:
                return False
            if how["condition"] == "service_healthy":
                self._wait_for(other)
            elif self._processes[other].wait(PATIENCE_S) != 0:
                raise SystemExit(f"{other} failed:\n{self.log(other).read_text()[-3000:]}")
        return True

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _wait_for(self, name: str) -> None:
        """Waits for a service's health, as its own check finds it inside."""
        process, check = self._processes[name], self.services[name]["healthcheck"]
        kind, *words = check["test"]
        assert kind == "CMD"
        seconds = float(check.get("timeout", f"{CHECK_S}s").removesuffix("s"))
        deadline = time.monotonic() + PATIENCE_S
        while (told := self._inside(name, words, seconds)) is not None:
            if process.poll() is not None or time.monotonic() > deadline:
                log = self.log(name).read_text(errors="replace")
                raise SystemExit(f"{name} is not well ({told}):\n{log[-3000:]}")
            time.sleep(1)

    def _inside(self, name: str, words: list[str], seconds: float) -> str | None:
        """Runs a command beside a service's own; returns what it says if it fails."""
        pid = self._processes[name].pid
        if not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            return "it does not run"
        enter = ["nsenter", f"--target={children[0]}", "--net", "--mount", "--pid", "--uts"]
        root = self.folder / name / "root"
        try:
            done = subprocess.run(
                [*enter, *self._as_its_user(name, root, words)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no answer within {seconds:g} s"
        return done.stdout.decode() if done.returncode else None

    def _as_its_user(self, name: str, root: Path, words: list[str]) -> list[str]:
        service, image = self.services[name], self._image(name)
        user, _, group = service["user"].partition(":")
        kept = "".join(f",+{each.lower()}" for each in service.get("cap_add", []))
        environment = {
            "HOME": "/home/srmill" if user == "1000" else "/",
            **image.environment,
            **{key: str(value) for key, value in service.get("environment", {}).items()},
        }
        return [
            "chroot", str(root),
            "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs",
            f"--bounding-set=-all{kept}", "--inh-caps=-all",
            "env", "-i", f"--chdir={image.folder}",
            *(f"{key}={value}" for key, value in environment.items()), *words,
        ]  # fmt: skip

    def _image(self, name: str) -> Image:
        return self.images[self.services[name]["image"].rpartition(":")[0]]

    def _start(self, name: str) -> None:
        service, image = self.services[name], self._image(name)
        entrypoint = service.get("entrypoint", image.entrypoint)
        words = [*entrypoint, *service.get("command", image.command)]
        root = self._root(name)
        script = root.close(list(map(shlex.quote, self._as_its_user(name, root.path, words))))
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child",
             "sh", "-euc", f"read go\nhostname {name}\n{script}"],
            stdin=subprocess.PIPE, stdout=self.log(name).open("wb"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._processes[name] = process
        self._connect(name, process)
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.close()
        print(f"started {name}", flush=True)

    def _connect(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        """Gives a service its address in the network."""
        here, peer = f"veth{len(self._processes)}", f"peer{len(self._processes)}"
        while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        ip(f"link add {here} type veth peer name {peer} netns {process.pid}")
        ip(f"link set {here} master inside up")
        inside = ("nsenter", f"--target={process.pid}", "--net", "ip")
        for command in (
            "link set lo up", f"link set {peer} name eth0",
            f"addr add {self.addresses[name]}/24 dev eth0", "link set eth0 up",
            "route add default via 10.88.0.1",
        ):  # fmt: skip
            subprocess.run([*inside, *command.split()], check=True)

    def _root(self, name: str) -> ContainerRoot:
        service, image = self.services[name], self._image(name)
        root = ContainerRoot(self.folder / name / "root")
        root.take_machine()
        root.shared_memory(service.get("shm_size", "64m"))
        for each in service.get("tmpfs", []):
            root.tmpfs(each)
        for each in service.get("volumes", []):
            source, target, *_ = each.split(":")
            if source.startswith("."):
                root.bind(self.folder / source, target)
            else:
                root.volume(source, target, service["user"])
        for path, text in image.files.items():
            root.file(path, text)
        for program, capability in image.programs.items():
            root.program(program, capability)
        root.take_checkout()
        own = (each.rpartition(":") for each in service.get("extra_hosts", []))
        root.take_names({host: address for host, _, address in own} | self.addresses)
        for folder in (image.folder, "/home/srmill"):
            root.folder(folder)
        return root


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Returns a part of the file with the variables put in, as Compose does."""
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def found(match: "re.Match[str]") -> str:
        name, sign, other = match.groups()
        if match[0] == "$$":
            return "$"
        if sign == ":?" and not variables.get(name):
            raise SystemExit(f"{name}: {other}")
        return variables.get(name) or other

    return re.sub(r"\$\$|\$\{(\w+)(:[?-])([^}]*)\}", found, value)


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


if __name__ == "__main__":
    Compose(Path(sys.argv[1])).up()
    sys.stdin.read()
