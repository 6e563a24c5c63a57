"""A trigger and the job server of a real cluster."""

from pathlib import Path

import pytest

from infra.local.platform import Platform
from pipelines import ray_auth
from pipelines.errors import UserError
from pipelines.triggers import Limits, Status, Watch, choose_starter
from tests.conftest import SMALL
from tests.support.triggered import until


def opened(cluster: Platform, photos: Path) -> Watch:
    settings = [f"recipe={SMALL}", "run.name=watched", "benchmark=/nosuch"]
    return Watch(str(photos), settings, choose_starter(cluster.dashboard))


def test_a_job_is_submitted_once_and_its_end_is_seen(cluster: Platform, photos: Path) -> None:
    """The job is the real one, and fails at its first check."""
    limits, server = Limits(1, None), choose_starter(cluster.dashboard)
    poll = opened(cluster, photos).poll(limits, 0.0)
    assert poll.started
    assert poll.line.endswith(f"starts {poll.started} on the cluster at {cluster.dashboard}")
    # Another trigger, and one that was killed before it knew that the job is there.
    assert opened(cluster, photos).poll(limits, 1.0).started is None
    server.start(poll.started, ["recipe=nosuch"])
    until(lambda: server.status(poll.started) is not Status.RUNS, 120)
    assert server.status(poll.started) is Status.FAILED
    line = opened(cluster, photos).poll(limits, 2.0).line
    assert f"{poll.started} has failed; waits for 1 more photo" in line
    assert server.status("watched-never-1") is Status.ABSENT


def test_a_job_server_asks_for_its_token(
    cluster: Platform, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ray_auth.TOKEN, "0" * 64)
    ray_auth.read_again()
    try:
        with pytest.raises(UserError, match="asks for its token: set RAY_AUTH_MODE=token"):
            opened(cluster, photos).poll(Limits(1, None), 0.0)
    finally:
        monkeypatch.undo()
        ray_auth.read_again()
