import time

import pytest
from mlflow import MlflowClient

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.errors import Terminated, UserError
from tests.support.mlflow_server import MLflowServer


def test_an_unreachable_server_is_told_at_once() -> None:
    config = load_config(["mlflow.uri=http://127.0.0.1:9"])
    start = time.monotonic()
    with pytest.raises(UserError, match=r"MLflow server at http://127.0.0.1:9 does not answer"):
        tracking.connect(config.mlflow)
    assert time.monotonic() - start < 30  # MLflow alone retries for minutes


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
    client = tracking.open_client("http://127.0.0.1:9")
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
    client = tracking.open_client(mlflow_server.url)
    run = mlflow_server.new_run()
    with tracking.active_run(client, run):
        mlflow_server.kill()
    assert "MLflow still shows the run as running, though it is FINISHED" in caplog.text
    mlflow_server.start()
    assert client.get_run(run).info.status == "RUNNING"


def test_a_failure_is_told_and_not_the_outage_after_it(
    mlflow_server: MLflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = tracking.open_client(mlflow_server.url)
    with pytest.raises(UserError, match="the work went wrong"):
        lose_server_and_fail(mlflow_server, client, mlflow_server.new_run())
    assert "though it is FAILED" in caplog.text


def lose_server_and_fail(server: MLflowServer, client: MlflowClient, run: str) -> None:
    with tracking.active_run(client, run):
        server.kill()
        raise UserError("the work went wrong")
