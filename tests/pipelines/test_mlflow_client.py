"""MLflow's patient client: what it does to MLflow's settings, and not to the environment."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)

from pipelines.mlflow_client import single_attempts

RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


def settings() -> tuple[int, int]:
    """Returns what MLflow's requests use: the number of retries, and seconds."""
    return MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()


@pytest.fixture(autouse=True)
def before() -> Iterator[tuple[int, int]]:
    """The settings that MLflow uses by itself; they must hold again at the end."""
    found = settings()
    assert found[0] > 0
    yield found
    assert settings() == found
    assert RETRIES not in os.environ


def test_the_last_thread_that_leaves_takes_the_settings_away() -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(single_attempts())
        second.enter_context(single_attempts())
        first.close()
        assert settings() == (0, 30)
    assert TIMEOUT not in os.environ


def test_settings_of_the_user_stay() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TIMEOUT, "7")
        with single_attempts():
            assert settings() == (0, 7)
        assert settings()[1] == 7


def test_threads_do_not_take_settings_from_one_another() -> None:
    """A soak of an hour has lost a training to this, with a KeyError."""
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        for _ in range(2000):
            with single_attempts():
                assert settings()[0] == 0

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(use) for _ in range(4)]:
            done.result()


def test_another_thread_may_copy_the_environment_at_any_time() -> None:
    """Submitting a job copies it; in a soak of an hour, that once ended with KeyError."""
    over = threading.Event()

    def copy() -> None:
        while not over.is_set():
            dict(os.environ)

    with ThreadPoolExecutor(1) as threads:
        copying = threads.submit(copy)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline and not copying.done():
            with single_attempts():
                pass
        over.set()
        copying.result()
