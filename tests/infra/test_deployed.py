"""The services of compose.yaml, run for real: each command, as its user, on a read-only root.

There is no container engine in a test; `tests.support.compose` says what stands in for it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local import platform as local_platform
from tests.conftest import ROOT
from tests.support.compose import READY
from tests.support.container_root import BIN
from tests.support.postgres import needs_postgres_user

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SITE = "sr.test"
FOLDER = ROOT / "infra" / "containers"
#: The authority of Caddy's certificates, in its volume.
AUTHORITY = "caddy/caddy/caddy/pki/authorities/local/root.crt"
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "mount")


@dataclass(frozen=True)
class Deployed:
    """The running services, seen from a machine outside.

    Attributes:
        pid: a process in the machine's network.
    """

    folder: Path
    pid: int

    def run(self, *words: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs a command of this environment in a shell that has read client.sh."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "unshare", "--mount", "sh", "-euc"]
        script = (
            f"mount --bind {self.folder}/client-hosts /etc/hosts; cd {self.folder}/checkout\n"
            f'PATH="{self.folder}/bin:$PATH"; . infra/containers/client.sh\n'
            f"{' '.join(f'export {k}={v!r};' for k, v in variables.items())} cd {ROOT}\n"
            'exec "$@"'
        )
        return subprocess.run(
            [*enter, script, "sh", *words],
            # Settings of another server, which client.sh must not leave.
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)}
            | dict.fromkeys(local_platform.FOREIGN, "foreign"),
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def python(self, code: str, **variables: str) -> str:
        """Returns the last line that a program of Python prints."""
        done = self.run(sys.executable, "-c", code, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in TOOLS):
        pytest.skip("only root, with util-linux and iproute2, can make the namespaces")
    needs_postgres_user()
    folder = Path(tempfile.mkdtemp(prefix="srmill-compose-"))
    folder.chmod(0o755)
    for file in FOLDER.iterdir():
        if file.is_file() and file.name != ".env" and file.suffix not in (".crt", ".pem"):
            shutil.copy(file, folder)
    subprocess.run(["sh", folder / "secrets.sh"], check=True, capture_output=True)
    with (folder / ".env").open("a") as environment:
        environment.write(f"SITE={SITE}\n")
    with (folder / "up.log").open("wb") as log:
        outer = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             sys.executable, "-m", "tests.support.compose", folder],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        while not (folder / READY).exists():
            assert outer.poll() is None, (folder / "up.log").read_text()
            time.sleep(0.5)
        _as_a_client(folder)
        [pid] = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        yield Deployed(folder, int(pid))
    finally:
        outer.kill()
        outer.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _as_a_client(folder: Path) -> None:
    """Lays out what client.sh reads: a checkout, and a `docker` that copies from Caddy's volume."""
    address = json.loads((folder / READY).read_text())["caddy"]
    (folder / "client-hosts").write_text(f"127.0.0.1 localhost\n{address} {SITE}\n")
    (folder / "checkout" / "infra").mkdir(parents=True)
    (folder / "checkout" / "infra" / "containers").symlink_to(folder)
    (folder / "checkout" / ".venv").symlink_to(BIN.parent)
    (folder / "bin").mkdir()
    docker = folder / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\nfor last; do :; done\nexec cp {folder}/{AUTHORITY} "$last"\n')
    docker.chmod(0o755)


def test_a_job_runs_with_the_workers_credentials(deployed: Deployed) -> None:
    job = ("jobs/shard.py", "source=sample", "data=s3://srmill/shards")
    done = deployed.run(BIN / "srmill", "submit", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "import boto3; print(boto3.client('s3').list_objects_v2(Bucket='srmill')['KeyCount'])"
    assert int(deployed.python(code)) > 3


def test_a_stage_trains(deployed: Deployed) -> None:
    job = (
        "jobs/train.py", "stage=autoencoder", "data=s3://srmill/shards", "run.name=deployed",
        "run.storage=s3://srmill/runs", "stages.autoencoder.train.steps=2",
    )  # fmt: skip
    done = deployed.run(BIN / "srmill", "submit", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    code = (
        "from mlflow import MlflowClient as C; c = C()\n"
        "found = c.search_runs([e.experiment_id for e in c.search_experiments()])\n"
        "print(*sorted(r.info.run_name + ' ' + r.info.status for r in found), sep=', ')"
    )
    assert "deployed-autoencoder FINISHED" in deployed.python(code)


def test_a_wrong_password_or_token_gets_nothing(deployed: Deployed) -> None:
    asked = (
        "import os, requests, boto3\n"
        "from botocore.exceptions import ClientError\n"
        "mlflow = requests.post(os.environ['MLFLOW_TRACKING_URI']\n"
        "    + '/api/2.0/mlflow/experiments/search', json={'max_results': 1},\n"
        "    auth=('srmill', os.environ['MLFLOW_TRACKING_PASSWORD'])).status_code\n"
        "ray = requests.get(os.environ['RAY_API_SERVER_ADDRESS'] + '/api/jobs/',\n"
        "    headers={'Authorization': 'Bearer ' + os.environ['RAY_AUTH_TOKEN']}).status_code\n"
        "def s3(bucket):\n"
        "    try: return boto3.client('s3').list_objects_v2(Bucket=bucket)['ResponseMetadata'][\n"
        "        'HTTPStatusCode']\n"
        "    except ClientError as error: return error.response['ResponseMetadata'][\n"
        "        'HTTPStatusCode']\n"
        "print(mlflow, ray, s3('srmill'), s3('mlflow'))"
    )
    assert deployed.python(asked) == "200 200 200 403"
    wrong = dict.fromkeys(
        ("MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"), "0" * 64
    )
    assert deployed.python(asked, **wrong) == "401 403 403 403"


def test_what_is_behind_the_door_asks_too(deployed: Deployed) -> None:
    """PostgreSQL asks for a password, and Ray's own port for the token."""
    addresses = json.loads((deployed.folder / READY).read_text())
    code = (
        "import psycopg\n"
        f"try: psycopg.connect('postgresql://mlflow@{addresses['postgres']}/mlflow')\n"
        "except psycopg.OperationalError as error: print('no password' in str(error))"
    )
    assert deployed.python(code) == "True"
    asked = (
        "from pipelines.ray_auth import is_refused\n"
        f"print(is_refused('{addresses['ray-head']}:6379'))"
    )
    assert deployed.python(asked) == "False"
    assert deployed.python(asked, RAY_AUTH_TOKEN="0" * 64) == "True"


def test_client_sh_says_what_is_missing(tmp_path: Path) -> None:
    told = subprocess.run(
        ["sh", "-c", f". {FOLDER}/client.sh"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    assert told.stderr.startswith("There is no infra/containers/.env here")
