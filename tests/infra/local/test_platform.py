"""Tests who reaches the local platform, and what is left of it when it does not come up."""

import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest
from ray.core.generated import gcs_service_pb2, ray_client_pb2

from infra.local import platform as local_platform
from infra.local.platform import Platform
from infra.local.ports import free_ports
from infra.local.servers.server import MARK, Server, running
from pipelines.errors import UserError
from pipelines.ray_auth import TOKEN
from pipelines.storage.files import write_json
from pipelines.storage.typed import to_dict
from tests.conftest import ROOT, SMALL, Runner

WRONG = "0" * 64


def get(url: str, token: str | None, data: bytes | None = None, **headers: str) -> int:
    """Returns the status of the answer to a request with a token."""
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_occupied_port_is_avoided_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        chosen = free_ports({"MLflow": port, "agent": port})
    assert chosen["MLflow"] > port
    assert chosen["agent"] not in (port, chosen["MLflow"])
    assert f"Port {port} is taken, so MLflow listens on" in capsys.readouterr().out


def test_down_leaves_foreign_processes_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Ray of another home is not stopped."""
    path = local_platform.state_file(tmp_path)
    path.parent.mkdir(parents=True)
    write_json(path, to_dict(Platform(str(tmp_path), "", "", "")))
    environment = {"SRMILL_HOME": str(tmp_path / "another"), MARK: "Ray"}
    command = [sys.executable, "-c", "import time; time.sleep(60)", "ray", "start"]
    with subprocess.Popen(command, env=os.environ | environment) as foreign:
        local_platform.down(tmp_path)
        assert foreign.poll() is None
        foreign.kill()
    assert not path.exists()
    local_platform.down(tmp_path)
    assert "Nothing to stop" in capsys.readouterr().out


def test_down_removes_rays_note_of_this_platform_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    note, state = tmp_path / "ray" / "ray_current_cluster", local_platform.state_file(tmp_path)
    for folder in (note.parent, state.parent):
        folder.mkdir()
    for noted, stays in (("127.0.0.1:1", False), ("127.0.0.1:2", True)):
        note.write_text(noted)
        write_json(state, to_dict(Platform(str(tmp_path), "127.0.0.1:1", "", "")))
        local_platform.down(tmp_path)
        assert note.exists() is stays


def test_up_is_idempotent_and_the_servers_answer(cluster: local_platform.Platform) -> None:
    again = local_platform.up(Path(cluster.home))
    assert again == cluster
    assert get(f"{cluster.dashboard}/api/version", cluster.token_file.read_text()) == 200
    with urllib.request.urlopen(cluster.mlflow, timeout=10) as response:
        assert "mlflow" in response.read().decode().lower()


def test_only_its_user_can_read_the_token(cluster: Platform) -> None:
    assert stat.S_IMODE(cluster.token_file.stat().st_mode) == 0o600
    assert cluster.token_file.read_text() not in cluster.describe()
    assert (
        cluster.token_file.read_text()
        not in local_platform.state_file(Path(cluster.home)).read_text()
    )


def agent(cluster: Platform) -> str:
    """The address of the agent, which starts jobs too."""
    [process] = [p for p in servers(cluster) if p.cmdline()[0].startswith("ray::DashboardAgent")]
    ports = {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
    [port] = [port for port in ports if port in range(21001, 21101)]
    return f"http://127.0.0.1:{port}"


def servers(cluster: Platform) -> list[psutil.Process]:
    """Every process of the platform."""
    found = running(Path(cluster.home), cluster.servers()).values()
    assert len(found) == 2
    return [each for server in found for each in (server, *server.children(recursive=True))]


@pytest.mark.parametrize(("token", "status"), [(None, 401), (WRONG, 403)])
def test_nobody_submits_a_job_without_the_token(
    cluster: Platform, token: str | None, status: int, tmp_path: Path
) -> None:
    job = b'{"entrypoint": "touch %s"}' % bytes(tmp_path / "ran")
    for url in (f"{cluster.dashboard}/api/jobs/", f"{agent(cluster)}/api/job_agent/jobs/"):
        headers = {"Content-Type": "application/json"}
        assert get(url, token, job, **headers) == status
        assert get(url, token) == status
    assert not list(tmp_path.iterdir())
    assert get(f"{cluster.dashboard}/api/jobs/", cluster.token_file.read_text()) == 200


def test_a_page_of_another_host_learns_nothing_from_the_dashboard(cluster: Platform) -> None:
    """A rebound name makes a browser send its requests here, with the other's name and no token."""
    for path in ("api/jobs/", "api/version", "api/cluster_status", "nodes?view=summary", "timezone",
                 "api/v0/tasks", "logs", "api/actors"):  # fmt: skip
        url = f"{cluster.dashboard}/{path}"
        assert get(url, None, Host="evil.example", **{"User-Agent": "Mozilla/5.0"}) == 401, path


def call(address: str, method: str, request: bytes, token: str | None) -> grpc.StatusCode:
    """Returns the status of the answer to a call with a token."""
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(request, metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_neither_the_gcs_nor_the_client_port_answers_without_the_token(cluster: Platform) -> None:
    [client] = [p for p in servers(cluster) if "ray.util.client.server" in p.cmdline()]
    [port] = {c.laddr.port for c in client.net_connections() if c.status == "LISTEN"}
    gcs = (cluster.ray_address, "/ray.rpc.NodeInfoGcsService/GetClusterId",
           gcs_service_pb2.GetClusterIdRequest().SerializeToString())  # fmt: skip
    clients = (f"127.0.0.1:{port}", "/ray.rpc.RayletDriver/ClusterInfo",
               ray_client_pb2.ClusterInfoRequest().SerializeToString())  # fmt: skip
    for token in (None, WRONG):
        assert call(*gcs, token) == grpc.StatusCode.UNAUTHENTICATED
        assert call(*clients, token) == grpc.StatusCode.UNAUTHENTICATED
    token = cluster.token_file.read_text()
    assert call(*gcs, token) == grpc.StatusCode.OK
    assert call(*clients, token) == grpc.StatusCode.NOT_FOUND  # It knows of no client yet.


def test_all_servers_listen_on_this_machine_only(cluster: Platform) -> None:
    for process in servers(cluster):
        for connection in process.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                host = connection.laddr.ip.removeprefix("::ffff:")
                assert host == "127.0.0.1", (process.cmdline(), connection.laddr)


def test_a_job_without_the_token_is_told_at_once(
    cluster: Platform, run_forked: Runner, photos: Path
) -> None:
    arguments = ["jobs/shard.py", f"recipe={SMALL}", f"source={photos}"]
    done = run_forked(*arguments, RAY_ADDRESS=cluster.ray_address, **{TOKEN: WRONG})
    assert done.returncode == 2
    assert f"the Ray cluster at {cluster.ray_address} asks for its token" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_printed_line_submits_a_job(cluster: Platform) -> None:
    """As printed, in a shell that knows nothing of the token."""
    [line] = [line for line in cluster.describe().splitlines() if line.startswith("Submit")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    done = subprocess.run(
        line.removeprefix("Submit"), shell=True, cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "usage: jobs/stage1.py" in done.stdout
    assert "succeeded" in done.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", '{"home": 3}', '{"version": 1, "home": "x"}'])
def test_a_damaged_note_of_the_platform_is_one_sentence_and_goes(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = local_platform.state_file(tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"platform\.json (is damaged|has schema version)"):
        local_platform.load(tmp_path)
    local_platform.down(tmp_path)
    assert not path.exists()
    path.write_text(text)
    fresh = Platform(str(tmp_path), "", "", "")
    monkeypatch.setattr(local_platform, "_start_all", lambda home, full: fresh)
    assert local_platform.up(tmp_path) == fresh
    assert "Starting the platform anew" in capsys.readouterr().out


def test_what_has_started_is_found_without_the_note(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "ray", "start"]
    environment = {"SRMILL_HOME": str(tmp_path), MARK: "Ray"}
    with subprocess.Popen(command, env=os.environ | environment) as server:
        local_platform.down(tmp_path)
        server.wait(10)  # It would sleep for a minute.


def test_an_interrupt_while_it_starts_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second server is never reached, and nothing is noted of the first."""
    started: list[subprocess.Popen[bytes]] = []

    def start(server: Server) -> psutil.Process:
        if started:
            raise KeyboardInterrupt
        idle = [sys.executable, "-c", "import time; time.sleep(60)", *server.command]
        environment = dict(server.environment) | {MARK: server.name}
        started.append(subprocess.Popen(idle, env=environment))
        return psutil.Process(started[0].pid)

    monkeypatch.setattr(Server, "start", start)
    with pytest.raises(KeyboardInterrupt):
        local_platform.up(tmp_path)
    started[0].wait(10)  # It would sleep for a minute.
    assert not local_platform.state_file(tmp_path).exists()
