"""The full platform as `make up FULL=1` starts it: the demo on it, and what survives `kill -9`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from infra.local import demo, platform
from infra.local.platform import Platform
from infra.local.servers.caddy import trusted
from infra.local.servers.postgres import programs
from infra.local.servers.seaweedfs import BUCKET
from infra.local.servers.server import marked, running
from infra.local.status import status
from tests.conftest import ROOT
from tests.support.postgres import needs_postgres_user

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CHAMPION = f"models:/{demo.MODEL}@champion"


@pytest.fixture(scope="module")
def full() -> Iterator[Platform]:
    needs_postgres_user()
    home = Path(tempfile.mkdtemp(prefix="srmill-full-"))
    home.chmod(0o755)  # PostgreSQL's user, who is none of root's, may enter it.
    done = local("up", home)
    assert done.returncode == 0, done.stdout + done.stderr
    found = platform.load(home)
    assert found is not None
    yield found
    platform.down(home, quiet=True)
    shutil.rmtree(home)


def local(command: str, home: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command of `make`, in a shell that knows nothing of the platform."""
    names = ("RAY_", "AWS_", "MLFLOW_", "SRMILL_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    environment["RAY_TMPDIR"] = os.environ["RAY_TMPDIR"]
    words = [sys.executable, "-m", "infra.local", command, str(home), "--full", *options]
    return subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000, check=False
    )


def in_its_environment(full: Platform, *words: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command of this environment in a new shell that has read the platform's file."""
    program = Path(sys.executable).parent / words[0]
    command = f'. "{full.environment_file}" && exec "{program}" "$@"'
    return subprocess.run(
        ["env", "-i", f"PATH={os.environ['PATH']}", f"HOME={full.home}", "sh", "-c", command,
         "sh", *words[1:]],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def places_of_secrets(home: Path, saved: Path) -> list[str]:
    """Returns where a secret of the platform stands outside of its own file: in logs of servers and
    jobs, in buckets (shards, checkpoints, bundles, reports), or in MLflow's databases."""
    secrets = [path.read_bytes() for path in (home / "work/secrets").iterdir() if not path.suffix]
    secrets.append((home / "work/ray_token").read_bytes())
    assert len(secrets) >= 8
    texts = {str(path): path.read_bytes() for path in (saved / "s3").rglob("*") if path.is_file()}
    assert any(path.endswith("bundle.json") for path in texts)
    logs = Path(os.environ["RAY_TMPDIR"]).glob("ray/session_2*/logs")  # of killed heads, too
    for folder in (home / "work/logs", *logs):
        texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any("job-driver" in path for path in texts)
    for dump in saved.glob("*.dump"):
        done = subprocess.run(
            [programs() / "pg_restore", "-f", "-", dump], capture_output=True, check=True
        )
        assert b"CREATE TABLE" in done.stdout
        texts[dump.name] = done.stdout
    return [path for path, text in texts.items() if any(secret in text for secret in secrets)]


def metrics_of(full: Platform) -> str:
    """Returns the metrics, once the server has asked the registry after this call."""
    [server] = [server for server in full.servers() if server.name == "metrics"]
    asked, read = time.time(), 0.0
    while read < asked:
        time.sleep(1)
        assert time.time() < asked + 120
        text = requests.get(server.address, timeout=30).text
        read = float(text.partition('read_timestamp_seconds{source="registry"} ')[2].split()[0])
    return text


def same(one: Path, other: Path) -> bool:
    """Returns True if two bundles hold the same files with the same bytes."""
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert Path("bundle.json") in files
    return all((one / path).read_bytes() == (other / path).read_bytes() for path in files)


def test_the_job_server_asks_for_the_token_behind_its_door(full: Platform) -> None:
    token = full.token_file.read_text()
    for shown, answer in ((None, 401), ("0" * 64, 403), (token, 200)):
        headers = {"Authorization": f"Bearer {shown}"} if shown else {}
        found = requests.get(
            f"{full.dashboard}/api/jobs/", headers=headers,
            verify=str(trusted(Path(full.home))), timeout=30,
        )  # fmt: skip
        assert found.status_code == answer


def test_a_job_is_submitted_with_what_the_file_says(full: Platform) -> None:
    job = ("--working-dir", ".", "--", "jobs/stage1.py", "--help")
    done = in_its_environment(full, "ray", "job", "submit", "--address", full.dashboard, *job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


def test_a_killed_head_comes_back(full: Platform) -> None:
    home = Path(full.home)
    killed = running(home, full.servers())["Ray"]
    killed.kill()
    deadline = time.monotonic() + 120
    while running(home, full.servers()).get("Ray") in (None, killed):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    [head] = [server for server in full.servers() if server.name == "Ray"]
    head.wait(running(home, full.servers())["Ray"])
    assert "does not" not in status(home)


def submit(full: Platform, *words: str, wait: bool = True) -> str:
    """Submits a job of this checkout, and returns what `ray job submit` prints."""
    options = ("--address", full.dashboard, "--working-dir", ".") + (() if wait else ("--no-wait",))
    done = in_its_environment(full, "ray", "job", "submit", *options, "--", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def steps_of(full: Platform, run: str) -> list[int]:
    """The steps of a run that have a complete checkpoint in S3."""
    code = (
        "from pipelines.config.load import load_config\n"
        "from pipelines.runs.names import run_checkpoints\n"
        f"config = load_config(['run.storage=s3://{BUCKET}/upgrade/runs'])\n"
        f"print(*run_checkpoints(config, '{run}').steps())"
    )
    done = in_its_environment(full, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    return [int(step) for step in done.stdout.split()]


def test_a_training_goes_on_after_an_upgrade(full: Platform) -> None:
    """Everything is stopped, and started again, while a stage trains: as for a new version."""
    home, data = Path(full.home), f"data=s3://{BUCKET}/upgrade/shards"
    submit(full, "jobs/shard.py", "source=sample", data)
    train = (
        "jobs/train.py", "stage=autoencoder", data, f"run.storage=s3://{BUCKET}/upgrade/runs",
        "run.name=upgrade", "stages.autoencoder.train.steps=200", "train.checkpoint_every=25",
    )  # fmt: skip
    submit(full, *train, wait=False)
    deadline = time.monotonic() + 600
    while not (done := steps_of(full, "upgrade-autoencoder")):
        assert time.monotonic() < deadline
    assert max(done) < 200
    for command in ("down", "up"):
        told = local(command, home)
        assert told.returncode == 0, told.stdout + told.stderr
    again = platform.load(home)
    assert again is not None
    found = re.search(r"resuming at step (\d+) of 200", submit(again, *train))
    assert found
    assert int(found[1]) >= max(done)
    assert steps_of(again, "upgrade-autoencoder")[-1] == 200


def test_the_demo_promotes_and_what_it_made_survives(full: Platform, tmp_path: Path) -> None:
    """Everything that lasts is in S3 and PostgreSQL. Killing all of the platform loses nothing."""
    home = Path(full.home)
    done = local("demo", home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"alias champion ({CHAMPION})" in done.stdout
    assert f"Bundle      s3://{BUCKET}/out/export/" in done.stdout
    kept = {path.name for path in (home / "work").iterdir()}
    assert not kept & {"shards", "runs", "evaluate", "export", "retrain"}
    assert 'srmill_champion_version{model="edge_sd_sr_tiny"} 1.0' in metrics_of(full)
    before, after = tmp_path / "before", tmp_path / "after"
    fetched = in_its_environment(full, "srmill", "fetch", CHAMPION, str(before))
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    again: subprocess.CompletedProcess[str]
    for lost in ("processes", "everything"):
        if lost == "everything":
            saved = local("backup", home, "--folder", str(tmp_path / "backup"))
            assert saved.returncode == 0, saved.stdout + saved.stderr
            assert not places_of_secrets(home, tmp_path / "backup")
        for _, process in marked(home):
            process.kill()
        if lost == "everything":
            shutil.rmtree(home / "work")
            again = local("restore", home, "--folder", str(tmp_path / "backup"))
        else:
            again = local("up", home)
        assert again.returncode == 0, again.stdout + again.stderr
        shutil.rmtree(after, ignore_errors=True)
        assert in_its_environment(full, "srmill", "fetch", CHAMPION, str(after)).returncode == 0
        assert same(before, after)
    idle = local("demo", home)
    assert idle.returncode == 0, idle.stdout + idle.stderr
    assert idle.stdout.count("same inputs as before") == 6
