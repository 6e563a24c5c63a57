import base64
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.schema import MlflowConfig
from pipelines.errors import Terminated, UserError
from pipelines.mlflow_client import open_client
from tests.support.clock import LongPauses, TurnedClock
from tests.support.mlflow_server import MLflowServer


def test_an_unreachable_server_is_told_within_seconds(caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(["mlflow.uri=http://127.0.0.1:9"])
    clock = TurnedClock()
    with pytest.raises(UserError, match=r"MLflow server at http://127.0.0.1:9 does not answer"):
        tracking.connect(config.mlflow, clock=clock)
    assert clock.now() <= 15  # MLflow alone retries for minutes
    assert "could not reach MLflow at http://127.0.0.1:9" in caplog.text


def test_a_run_is_found_again_by_its_name() -> None:
    config = load_config([])
    client = tracking.connect(config.mlflow)
    assert tracking.find_run(client, config.mlflow, "a") is None
    first = tracking.open_run(client, config, "a", {"x": "1"})
    client.update_run(first, status="FAILED")
    assert tracking.open_run(client, config, "a", {}) == first
    assert client.get_run(first).info.status == "RUNNING"
    assert tracking.open_run(client, config, "b", {}) != first


def test_parameters_of_a_resumed_run_stay() -> None:
    config = load_config([])
    client = tracking.connect(config.mlflow)
    run = tracking.open_run(client, config, "a", {})
    tracking.log_params(client, run, {"train": {"steps": 5, "lr": 0.1}})
    tracking.log_params(client, run, {"train": {"steps": 9, "crop": 64}})
    assert client.get_run(run).data.params == {
        "train.steps": "5", "train.lr": "0.1", "train.crop": "64",
    }  # fmt: skip


def test_a_run_whose_server_is_gone_ends_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    client = open_client("http://127.0.0.1:9")
    tracking.end_run(client, "0" * 32, "FINISHED")
    assert "MLflow still shows the run as running, though it is FINISHED" in caplog.text


def test_a_run_that_succeeds_is_finished() -> None:
    config = load_config([])
    client = tracking.connect(config.mlflow)
    run = tracking.new_run(client, config, "a", {})
    with tracking.active_run(client, run):
        assert client.get_run(run).info.status == "RUNNING"
    assert client.get_run(run).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("wrong"), "FAILED"),
        (RuntimeError("broken"), "FAILED"),
        (Terminated("saved"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
    ],
)
def test_a_run_tells_how_it_ended_and_the_error_goes_on(error: BaseException, status: str) -> None:
    config = load_config([])
    client = tracking.connect(config.mlflow)
    run = tracking.new_run(client, config, "a", {})
    with pytest.raises(type(error)), tracking.active_run(client, run):
        raise error
    assert client.get_run(run).info.status == status


def test_a_server_that_goes_away_meanwhile_costs_a_warning(
    mlflow_server: MLflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_client(mlflow_server.url)
    run = mlflow_server.new_run()
    with tracking.active_run(client, run):
        mlflow_server.kill()
    assert "MLflow still shows the run as running, though it is FINISHED" in caplog.text
    mlflow_server.start()
    assert client.get_run(run).info.status == "RUNNING"


def test_a_failure_is_told_and_not_the_outage_after_it(
    mlflow_server: MLflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_client(mlflow_server.url)
    with pytest.raises(UserError, match="the work went wrong"):
        lose_server_and_fail(mlflow_server, client, mlflow_server.new_run())
    assert "though it is FAILED" in caplog.text


def lose_server_and_fail(server: MLflowServer, client: MlflowClient, run: str) -> None:
    with tracking.active_run(client, run):
        server.kill()
        raise UserError("the work went wrong")


class RestartingClock(TurnedClock):
    """It starts the server again when somebody waits for the third time."""

    def __init__(self, server: MLflowServer) -> None:
        super().__init__()
        self.server, self.sleeps = server, 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.sleeps += 1
        if self.sleeps == 3:
            self.server.start()


def test_an_outage_between_two_stages_is_waited_for(
    mlflow_server: MLflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config([f"mlflow.uri={mlflow_server.url}"])
    tracking.connect(config.mlflow)
    mlflow_server.kill()
    clock = RestartingClock(mlflow_server)
    client = tracking.connect(config.mlflow, clock=clock)
    mlflow_server.kill()
    clock.sleeps = 0
    run = tracking.new_run(client, config, "second", {})
    assert tracking.find_run(client, config.mlflow, "second") == run
    assert f"could not reach MLflow at {mlflow_server.url}" in caplog.text


def test_two_jobs_create_the_same_experiment_at_once() -> None:
    config = load_config([])
    client = tracking.connect(config.mlflow)
    find = client.get_experiment_by_name

    def create_elsewhere(name: str) -> Any:
        del client.get_experiment_by_name
        open_client(tracking.tracking_uri(config.mlflow)).create_experiment(name)
        return None

    client.get_experiment_by_name = create_elsewhere  # type: ignore[method-assign]
    run = client.get_run(tracking.new_run(client, config, "a", {}))
    assert run.info.experiment_id == find("edge_sd_sr_tiny").experiment_id


@pytest.mark.parametrize(
    "uri",
    ["http://a b:5", "http://x:port", "http://x:99999", "http://", "ftp://x", "nonsense"],
)
def test_an_address_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"is not of the form http\(s\)://HOST:PORT or sqlite"):
        tracking.connect(MlflowConfig(uri=uri))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database" * 100)
    with pytest.raises(UserError, match="file is not a database"):
        tracking.connect(MlflowConfig(uri=f"sqlite:///{tmp_path}/x.db"))


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE albums (name TEXT)")
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
    before = path.read_bytes()
    with pytest.raises(
        UserError, match=r"photos\.db is the database of another program \(it has a table albums"
    ):
        tracking.connect(MlflowConfig(uri=f"sqlite:///{path}"))
    assert path.read_bytes() == before
    # A user may have made an empty file, or MLflow may be about to make its tables.
    for name, table in (("empty.db", None), ("begun.db", "CREATE TABLE runs (run_uuid TEXT)")):
        with closing(sqlite3.connect(tmp_path / name)) as database, database:
            if table:
                database.execute(table)
        tracking._refuse_foreign(tmp_path / name)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, and no database"):
        tracking.connect(MlflowConfig(uri=f"sqlite:///{tmp_path}"))


#: Starts a server that answers each request with a status and a body; returns its address.
Serve = Callable[[int, str], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that is none of MLflow's. With status 401 it lets joe:secret in."""
    servers = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                known = base64.b64encode(b"joe:secret").decode()
                welcome = self.headers["Authorization"] == f"Basic {known}"
                self.send_response(200 if welcome else status)
                self.end_headers()
                self.wfile.write(b"{}" if welcome else body.encode())

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, "<html>Hello</html>", "does not answer .*not in a valid JSON format"),
        (500, "", "does not answer .*500"),
        (404, "", "does not work as MLflow's server"),
        (401, "", "refuses access .*: set MLFLOW_TRACKING_USERNAME"),
        (403, "", "refuses access .*: set MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_a_server_that_answers_garbage_is_told_in_a_sentence(
    serve: Serve, status: int, body: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tracking.connect(MlflowConfig(uri=f"http://{serve(status, body)}"), clock=TurnedClock())


@pytest.fixture
def busy(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that answers at the third request. Before, it sends the status that
    the test gives; for 0 it is silent for longer than the client waits."""
    left = [request.param] * 2

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = left.pop() if left else 200
            if not status:
                time.sleep(1.5)
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("busy", [429, 502, 503, 504, 0], indirect=True)
def test_a_busy_server_is_waited_for(busy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracking.connect(MlflowConfig(uri=busy), clock=(clock := LongPauses()))
    assert clock.now() >= 40


@pytest.mark.parametrize("busy", [500], indirect=True)
def test_a_server_that_fails_is_none_that_is_busy(busy: str) -> None:
    with pytest.raises(UserError, match=r"does not answer .*500"):
        tracking.connect(MlflowConfig(uri=busy), clock=LongPauses())


def test_a_server_that_is_always_busy_may_be_another(serve: Serve) -> None:
    """A proxy on the way says so for servers that do not exist."""
    address = f"http://{serve(503, '')}"
    with pytest.raises(UserError, match=rf"MLflow server at {address} does not .* set mlflow\.uri"):
        tracking.connect(MlflowConfig(uri=address), clock=(clock := TurnedClock()))
    assert 100 < clock.now() < 150


def test_a_password_in_the_address_or_in_its_variables_works(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = serve(401, "")
    tracking.connect(MlflowConfig(uri=f"http://joe:secret@{host}"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "joe")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    tracking.connect(MlflowConfig(uri=f"http://{host}"))


def test_a_password_in_the_address_is_never_told(
    caplog: pytest.LogCaptureFixture, serve: Serve
) -> None:
    for uri in ("http://joe:secret@127.0.0.1:9", f"http://joe:wrong@{serve(401, '')}"):
        with pytest.raises(UserError) as caught:
            tracking.connect(MlflowConfig(uri=uri), clock=TurnedClock())
        said = str(caught.value) + caplog.text
        assert "***@" in said
        assert "joe" not in said
