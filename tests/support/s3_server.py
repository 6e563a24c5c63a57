"""A real S3 server for tests: one SeaweedFS per session, one prefix per test."""

import atexit
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

BUCKET = "srmill"
ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"
# Ends the server when its input closes, also when pytest itself is killed. SIGKILL, since it takes
# its time on SIGTERM and nothing of it is kept.
LEASH = '"$@" & server=$!; read _; kill -9 $server; wait $server 2>/dev/null'
SERVICES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class S3Server:
    """The address of a running server; `environment` is all that its clients need."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain client, to look at the server past the code under test."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(connect_timeout=5, read_timeout=30),
        )


@pytest.fixture(scope="session")
def s3_server() -> S3Server:
    """A running SeaweedFS with one bucket, `srmill`."""
    return running_server()


@functools.cache
def running_server() -> S3Server:
    """The one server of this process, however many modules import the fixture; ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="srmill-seaweedfs-"))
    ports = dict(zip(SERVICES, _free_ports(len(SERVICES)), strict=True))
    log = folder / "weed.log"
    process = _start(folder, ports, log)
    atexit.register(_stop, process, folder, ports)
    server = S3Server(ports["s3"])
    _wait(process, server, log)
    return server


def _stop(process: "subprocess.Popen[bytes]", folder: Path, ports: dict[str, int]) -> None:
    assert process.stdin
    process.stdin.close()
    process.wait(timeout=20)
    shutil.rmtree(folder, ignore_errors=True)
    for service, port in ports.items():
        _socket(service, port).unlink(missing_ok=True)


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty `s3://bucket/prefix`; the environment says how to reach it."""
    use_environment(s3_server.environment, monkeypatch)
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


def use_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets these AWS variables and unsets the developer's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def _start(folder: Path, ports: dict[str, int], log: Path) -> "subprocess.Popen[bytes]":
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identities = {"identities": [{"name": "test", "credentials": keys, "actions": actions}]}
    (folder / "s3.json").write_text(json.dumps(identities))
    (folder / "data").mkdir()
    command = [
        *("sh", "-c", LEASH, "sh"),
        str(Path(sys.executable).parent / "weed"),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=128",
        "-volume.max=20",
        *(f"-{service}.port={port}" for service, port in ports.items()),
    ]
    environment = os.environ | {"GOMEMLIMIT": "300MiB"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _wait(process: "subprocess.Popen[bytes]", server: S3Server, log: Path) -> None:
    """Returns when the bucket can be written to."""
    deadline = time.monotonic() + 60
    last: Exception | None = None
    while time.monotonic() < deadline and process.poll() is None:
        try:
            # Without an answer on the port, a client would wait and retry for longer.
            with urllib.request.urlopen(f"{server.url}/healthz", timeout=2):
                pass
        except (urllib.error.URLError, OSError) as error:
            last = error
            if not isinstance(error, urllib.error.HTTPError):
                time.sleep(0.1)
                continue
        try:
            client = server.client()
            if BUCKET not in {b["Name"] for b in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
            return
        except Exception as error:
            last = error
            time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS does not start: {last}\n{log.read_text()[-3000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports that are free and whose gRPC port, 10000 higher, is too.

    The processes of a session have neighbouring numbers and start their servers at once, so each
    looks in a range of its own.
    """
    found: list[int] = []
    # The higher one stays below the ports that the system gives to clients.
    candidate = 20_100 + os.getpid() % 128 * 20
    while len(found) < count:
        candidate += 1
        is_left = any(_socket(service, candidate).exists() for service in SERVICES)
        if not is_left and _is_free(candidate) and _is_free(candidate + 10_000):
            found.append(candidate)
    return found


def _socket(service: str, port: int) -> Path:
    """The file that SeaweedFS puts beside a gRPC port, and leaves there when it is killed."""
    return Path(f"/tmp/seaweedfs-{service}-grpc-{port + 10_000}.sock")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
