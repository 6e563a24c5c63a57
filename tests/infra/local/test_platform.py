import json
import socket
import urllib.request
from pathlib import Path

import pytest

from infra.local import platform as local_platform


def test_an_occupied_port_is_avoided_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        chosen = local_platform.free_ports({"MLflow": port, "agent": port})
    assert chosen["MLflow"] > port
    assert chosen["agent"] not in (port, chosen["MLflow"])
    assert f"Port {port} is taken, so MLflow listens on" in capsys.readouterr().out


def test_down_leaves_foreign_processes_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recorded process id that is somebody else's by now is not killed."""
    import os

    path = local_platform.state_file(tmp_path)
    path.parent.mkdir(parents=True)
    state = {"home": str(tmp_path), "ray_address": "", "dashboard": "", "mlflow": ""}
    path.write_text(json.dumps(state | {"pids": [os.getpid(), 2**22 - 1]}))
    local_platform.down(tmp_path)
    assert not path.exists()
    local_platform.down(tmp_path)
    assert "Nothing to stop" in capsys.readouterr().out


@pytest.mark.cluster
def test_up_is_idempotent_and_the_servers_answer(cluster: local_platform.Platform) -> None:
    again = local_platform.up(Path(cluster.home))
    assert again == cluster
    with urllib.request.urlopen(f"{cluster.dashboard}/api/version", timeout=10) as response:
        assert json.loads(response.read())["ray_version"]
    with urllib.request.urlopen(cluster.mlflow, timeout=10) as response:
        assert "mlflow" in response.read().decode().lower()
