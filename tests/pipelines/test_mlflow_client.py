"""MLflow's patient client: what it does to this process' environment."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from pipelines.mlflow_client import single_attempts

RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


def test_the_last_thread_that_leaves_takes_the_settings_away() -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(single_attempts())
        second.enter_context(single_attempts())
        first.close()
        assert (os.environ[RETRIES], os.environ[TIMEOUT]) == ("0", "30")
    assert RETRIES not in os.environ
    assert TIMEOUT not in os.environ


def test_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "7")
    with single_attempts():
        assert (os.environ[RETRIES], os.environ[TIMEOUT]) == ("0", "7")
    assert os.environ[TIMEOUT] == "7"
    assert RETRIES not in os.environ


def test_threads_do_not_take_settings_from_one_another() -> None:
    """A soak of an hour has lost a training to this, with a KeyError."""
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        for _ in range(2000):
            with single_attempts():
                assert os.environ[RETRIES] == "0"

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(use) for _ in range(4)]:
            done.result()
    assert RETRIES not in os.environ
