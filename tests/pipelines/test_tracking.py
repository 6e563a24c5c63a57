import time

import pytest

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.errors import UserError


def test_an_unreachable_server_is_told_at_once() -> None:
    config = load_config(["mlflow.uri=http://127.0.0.1:9"])
    start = time.monotonic()
    with pytest.raises(UserError, match=r"MLflow server at http://127.0.0.1:9 does not answer"):
        tracking.connect(config)
    assert time.monotonic() - start < 30  # MLflow alone retries for minutes


def test_a_run_is_found_again_by_its_name() -> None:
    config = load_config([])
    client = tracking.connect(config)
    assert tracking.find_run(client, config, "a") is None
    first = tracking.open_run(client, config, "a", {"x": "1"})
    client.update_run(first, status="FAILED")
    assert tracking.open_run(client, config, "a", {}) == first
    assert client.get_run(first).info.status == "RUNNING"
    assert tracking.open_run(client, config, "b", {}) != first


def test_parameters_of_a_resumed_run_stay() -> None:
    config = load_config([])
    client = tracking.connect(config)
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
