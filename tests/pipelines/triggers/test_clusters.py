"""Clusters in a file of the user's, and the command that submits to one."""

import json
import os
import shlex
import time
from pathlib import Path

import pytest

from infra.local.platform import Platform
from pipelines import ray_auth
from pipelines.errors import UserError
from pipelines.storage.paths import ROOT
from pipelines.triggers.clusters import ADDRESS, FILE, Cluster, find_cluster
from pipelines.triggers.job_server import JobServer
from tests.conftest import SMALL
from tests.pipelines.test_cli import srmill


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of clusters, which is not there yet."""
    monkeypatch.delenv(ADDRESS, raising=False)
    monkeypatch.setenv(FILE, str(tmp_path / "clusters.yaml"))
    return tmp_path / "clusters.yaml"


def test_a_cluster_is_found_by_name_by_address_or_by_rays_variable(
    clusters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters.write_text("lab: {address: 'https://ray.lab', variables: {SRMILL_HOME: /srmill}}\n")
    assert find_cluster("lab") == Cluster("https://ray.lab", variables={"SRMILL_HOME": "/srmill"})
    assert find_cluster("https://ray.other") == Cluster("https://ray.other")
    monkeypatch.setenv(ADDRESS, "http://127.0.0.1:8265")
    assert find_cluster(None) == Cluster("http://127.0.0.1:8265")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no cluster lab \\(it has none\\): add it"),
        ("home: {address: 'http://h'}", "has no cluster lab \\(it has home\\)"),
        ("[]", "holds no clusters"),
        ("lab: {", "cannot read .*clusters.yaml"),
        ("lab: {adress: 'http://h'}", "cluster lab of .*: address: field required"),
        ("lab: {address: 3}", "address: input should be a valid string"),
        ("lab: {address: 'http://h', variables: {AWS_SECRET_ACCESS_KEY: x}}",
         "would show AWS_SECRET_ACCESS_KEY to everybody who sees a job"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_in_one_sentence(clusters: Path, text: str, message: str) -> None:
    if text:
        clusters.write_text(text)
    with pytest.raises(UserError, match=message):
        find_cluster("lab")


def test_without_a_cluster_it_says_where_to_name_one(
    clusters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert srmill("submit", "jobs/stage1.py") == 2
    assert "name the cluster: --cluster" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs/nosuch.py"], "jobs/nosuch.py is no job of"),
        (["pipelines/job.py"], "pipelines/job.py is no job of"),
        (["jobs/stage1.py", "train.stepps=3"], "train.steps"),
    ],
)
def test_what_the_job_would_refuse_is_refused_here(
    clusters: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing listens at the address: nothing is sent."""
    assert srmill("submit", "--cluster", "http://127.0.0.1:9", *words) == 2
    assert message in capsys.readouterr().err


def test_the_printed_command_is_rays(clusters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ray.dashboard.modules.job.cli import submit

    clusters.write_text(
        "lab: {address: 'https://ray.lab', token: /keys/lab, ca: /keys/ca.pem,"
        " variables: {SRMILL_HOME: /srmill}}\n"
    )
    job = ("jobs/stage1.py", f"recipe={SMALL}", "train.workers=[1,2]")
    options = ("--name", "first", "--entrypoint-memory", 2_000_000_000, "--print")
    assert srmill("submit", "--cluster", "lab", *options, *job) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:6] == [
        "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=/keys/lab", "RAY_AUTH_TOKEN=",
        "ray", "job", "submit",
    ]  # fmt: skip
    found = submit.make_context("submit", words[6:]).params
    assert found["address"] == "https://ray.lab"
    assert found["verify"] == "/keys/ca.pem"
    assert found["submission_id"] == "first"
    assert found["entrypoint_memory"] == 2_000_000_000
    assert found["working_dir"] == str(ROOT)
    assert json.loads(found["runtime_env_json"])["env_vars"]["SRMILL_HOME"] == "/srmill"
    assert list(found["entrypoint"]) == list(job)


def test_it_submits_shows_the_log_and_ends_with_the_jobs_code(
    cluster: Platform, clusters: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The job is the real one, and fails at its first check."""
    monkeypatch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "token"))
    clusters.write_text(
        f"here: {{address: '{cluster.dashboard}', variables: {{SRMILL_EXAMPLE: one}}}}\n"
    )
    job = ("jobs/stage1.py", f"recipe={SMALL}", "run.name=submitted", "data=/nosuch/shards")
    assert srmill("submit", "--cluster", "here", *job) == 2
    shown = capsys.readouterr().out
    assert "Submitted " in shown
    assert "error: " in shown
    assert "/nosuch/shards" in shown.partition("Submitted ")[2]
    assert "ended as FAILED." in shown


def test_a_job_waits_for_the_memory_that_it_asks_for(
    cluster: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "token"))
    server, end = JobServer(cluster.dashboard), tmp_path / "end"
    job = f"sh -c 'until [ -e {end} ]; do sleep 0.2; done'"

    def until(expected: str, *jobs: str) -> None:
        deadline = time.monotonic() + 120
        while {found := server.status(each) for each in jobs} != {expected}:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    until("SUCCEEDED", server.submit("true"))  # by then the nodes have told their memory
    status = server.client()._do_request("GET", "/api/cluster_status").json()
    _, all_of_it = status["data"]["clusterStatus"]["loadMetricsReport"]["usage"]["memory"]
    memory = int(0.6 * all_of_it)
    first = server.submit(job, memory=memory)
    until("RUNNING", first)
    second = server.submit(job, memory=memory)
    until("SUCCEEDED", server.submit("true"))  # one that asks for none does not wait
    assert (server.status(first), server.status(second)) == ("RUNNING", "PENDING")
    end.touch()
    until("SUCCEEDED", first, second)


@pytest.mark.parametrize("memory", ["2GB", "-1", "", "1e9", "1" + "0" * 15])
def test_memory_is_a_number_of_bytes(
    memory: str, clusters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--cluster", "http://127.0.0.1:9", f"--entrypoint-memory={memory}")
    assert srmill("submit", *options, "jobs/stage1.py") == 2
    assert f"{memory!r} is no number of bytes, such as 2000000000" in capsys.readouterr().err


def test_a_server_that_refuses_is_told(
    cluster: Platform, clusters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(ray_auth.TOKEN, "0" * 64)
    ray_auth.read_again()
    try:
        assert srmill("submit", "--cluster", cluster.dashboard, "jobs/stage1.py") == 2
        assert "asks for its token" in capsys.readouterr().err
    finally:
        monkeypatch.undo()
        ray_auth.read_again()
