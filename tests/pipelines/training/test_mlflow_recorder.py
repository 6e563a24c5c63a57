"""A real MLflow server that is killed, that loses its answers, or that never comes back."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines.training.mlflow_recorder import MLflowRecorder
from tests.support.faulty_proxy import Fault, FaultyProxy, Seen
from tests.support.mlflow_server import MLflowServer

#: Long enough for a server to start on a busy machine.
PATIENCE_S = 120.0


def record(recorder: MLflowRecorder, steps: range) -> None:
    for step in steps:
        recorder.metrics({"loss": 1 / step, "rate": float(step)}, step)


def steps_and_values(server: MLflowServer, run: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in server.history(run, name)]


def wait_for(server: MLflowServer, run: str, step: int) -> None:
    """Until the server has this step."""
    while step not in MlflowClient(server.url).get_run(run).data.metrics.values():
        time.sleep(0.05)


@pytest.fixture
def proxy(mlflow_server: MLflowServer) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(mlflow_server.port)
    yield proxy
    proxy.close()


def test_what_is_recorded_while_the_server_is_away_arrives_once_and_in_order(
    mlflow_server: MLflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    run = mlflow_server.new_run()
    before = time.time() * 1000
    recorder = MLflowRecorder(mlflow_server.url, run, patience_s=PATIENCE_S)
    record(recorder, range(1, 50))
    wait_for(mlflow_server, run, 49)
    mlflow_server.kill()
    record(recorder, range(50, 100))
    recorder.picture("validation", Image.new("RGB", (8, 8), "red"), 60)
    record(recorder, range(100, 150))
    after = time.time() * 1000
    while not caplog.records:  # it has noticed
        time.sleep(0.05)
    mlflow_server.start()
    recorder.close()

    assert steps_and_values(mlflow_server, run, "loss") == [(s, 1 / s) for s in range(1, 150)]
    assert steps_and_values(mlflow_server, run, "rate") == [(s, s) for s in range(1, 150)]
    assert mlflow_server.files(run, "pictures") == ["pictures/validation-000060.png"]
    times = [metric.timestamp for metric in mlflow_server.history(run, "loss")]
    assert before - 1 <= times[0] <= times[-1] <= after + 1
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2, messages
    assert messages[0].startswith("MLflow is away, the training goes on without it")
    assert messages[1] == "MLflow answers again, and everything has arrived"


def test_answers_that_are_lost_double_nothing(
    mlflow_server: MLflowServer, proxy: FaultyProxy
) -> None:
    run = mlflow_server.new_run()
    proxy.plan(*[Fault("lost", method="POST")] * 2, Fault("drop"), Fault("lost", method="PUT"))
    recorder = MLflowRecorder(proxy.url, run, patience_s=PATIENCE_S)
    record(recorder, range(1, 20))
    recorder.metrics({"bad": float("nan"), "huge": float("inf")}, 20)
    recorder.picture("a/b", Image.new("RGB", (8, 8)), 3)
    recorder.close()
    assert steps_and_values(mlflow_server, run, "loss") == [(s, 1 / s) for s in range(1, 20)]
    assert [len(mlflow_server.history(run, name)) for name in ("bad", "huge")] == [1, 1]
    assert mlflow_server.files(run, "pictures/a") == ["pictures/a/b-000003.png"]
    assert [seen.fault for seen in proxy.seen].count("lost") == 3


def test_a_replay_leaves_one_value_per_step(mlflow_server: MLflowServer) -> None:
    run = mlflow_server.new_run()
    for steps in (range(1, 21), range(11, 31)):
        recorder = MLflowRecorder(mlflow_server.url, run, patience_s=PATIENCE_S)
        record(recorder, steps)
        recorder.metrics({f"new/{steps.start}": 0.0}, 15)
        recorder.close()
    assert steps_and_values(mlflow_server, run, "loss") == [(s, 1 / s) for s in range(1, 31)]
    # A name that the server does not know yet is no replay.
    assert steps_and_values(mlflow_server, run, "new/11") == [(15, 0.0)]


def test_a_file_that_cannot_be_sent_holds_up_no_values(
    mlflow_server: MLflowServer, proxy: FaultyProxy, tmp_path: Path
) -> None:
    run = mlflow_server.new_run()
    broken = True

    def drop_files(seen: Seen) -> None:
        if broken and seen.method == "PUT":
            seen.fault = "drop"

    proxy.before = drop_files
    (tmp_path / "trace.json").write_text("{}")
    recorder = MLflowRecorder(proxy.url, run, patience_s=PATIENCE_S)
    recorder.file(tmp_path / "trace.json", "profile")
    recorder.metrics({"a": 1.0}, 1)
    wait_for(mlflow_server, run, 1)
    assert mlflow_server.files(run, "profile") == []
    broken = False
    recorder.close()
    assert mlflow_server.files(run, "profile") == ["profile/trace.json"]


def test_what_mlflow_refuses_is_told_and_the_rest_arrives(
    mlflow_server: MLflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = mlflow_server.new_run()
    recorder = MLflowRecorder(mlflow_server.url, run, patience_s=PATIENCE_S)
    recorder.metrics({"no@such@name": 1.0}, 1)
    recorder.file(tmp_path / "absent", "profile")
    while len(caplog.records) < 1:
        time.sleep(0.05)
    recorder.metrics({"good": 2.0}, 2)
    recorder.close()
    assert steps_and_values(mlflow_server, run, "good") == [(2, 2.0)]
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2, messages
    assert "no@such@name" in messages[0]
    assert messages[1] == "MLflow refused 2 values and files in all"


def test_closing_gives_up_on_a_server_that_never_comes_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    recorder = MLflowRecorder("http://me:secret@127.0.0.1:9", "0" * 32, patience_s=2.0)
    record(recorder, range(1, 6))
    recorder.picture("a", Image.new("RGB", (8, 8)), 1)
    while not caplog.records:
        time.sleep(0.05)
    recorder.close()
    recorder.close()
    messages = [record.message for record in caplog.records if record.name.startswith("pipelines")]
    assert len(messages) == 2, messages
    assert messages[1].startswith("10 values and 1 files did not arrive at MLflow (API request")
    assert "secret" not in "".join(messages)
    # What it set for its own requests is gone, what the user had set is still there.
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_local_database_needs_no_server(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("a", artifact_location=(tmp_path / "files").as_uri())
    run = client.create_run(experiment).info.run_id
    recorder = MLflowRecorder(uri, run, patience_s=PATIENCE_S)
    recorder.metrics({"a": 1.0}, 1)
    recorder.picture("b", Image.new("RGB", (8, 8)), 2)
    recorder.close()
    assert [metric.value for metric in client.get_metric_history(run, "a")] == [1.0]
    assert (tmp_path / "files" / run / "artifacts" / "pictures" / "b-000002.png").exists()
