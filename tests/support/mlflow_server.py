"""A real MLflow server for tests, that can be killed and started again where it was."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

# Ends the server when its input closes, also when pytest itself is killed.
LEASH = 'setsid "$@" & server=$!; read _; kill -9 -$server; wait $server 2>/dev/null'


class MLflowServer:
    """Artifacts go through the server, as on a cluster.

    Args:
        folder: the folder of its log, and of what has no other place.
        database: the address of its database; by default an sqlite file.
        artifacts: the folder or `s3://` prefix that holds the artifacts.
    """

    def __init__(
        self, folder: Path, database: str | None = None, artifacts: str | None = None
    ) -> None:
        self.folder = folder
        self.database = database or f"sqlite:///{folder}/mlflow.db"
        self.artifacts = artifacts or f"{folder}/artifacts"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        if self._process is not None:
            return
        command = [
            *("sh", "-c", LEASH, "sh"),
            str(Path(sys.executable).parent / "mlflow"), "server", "--host=127.0.0.1",
            f"--port={self.port}", "--workers=1",
            f"--backend-store-uri={self.database}",
            f"--artifacts-destination={self.artifacts}",
        ]  # fmt: skip
        # The server starts Python by name.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"MLflow does not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """Kills the server at once, in the middle of whatever it does."""
        if self._process is not None:
            assert self._process.stdin
            self._process.stdin.close()
            self._process.wait(timeout=20)
            self._process = None

    def new_run(self) -> str:
        return str(MlflowClient(self.url).create_run("0").info.run_id)

    def history(self, run: str, name: str) -> list[Metric]:
        return list(MlflowClient(self.url).get_metric_history(run, name))

    def files(self, run: str, folder: str) -> list[str]:
        return sorted(f.path for f in MlflowClient(self.url).list_artifacts(run, folder))


@pytest.fixture(scope="session")
def running_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mlflow_server(running_mlflow: MLflowServer) -> MLflowServer:
    """One server for the session, running when a test begins, whatever the one before did to it."""
    running_mlflow.start()
    return running_mlflow
