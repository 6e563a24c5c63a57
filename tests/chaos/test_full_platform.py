"""Trainings on the full platform, whose servers and workers die: each arrives at the weights of one
that nobody disturbed."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infra.local.platform import Platform
from infra.local.servers.seaweedfs import BUCKET
from infra.local.servers.server import marked
from pipelines.config.load import load_config
from pipelines.runs.checkpoint import EMA, MODEL
from pipelines.runs.names import run_checkpoints
from pipelines.triggers.job_server import JobServer
from tests.support.full_platform import (
    PATIENCE_S,
    become_client,
    full_platform,
    patient,
    until_succeeded,
)
from tests.support.postgres import needs_postgres_user
from tests.support.ray_nodes import training_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS, EVERY = 100, 10
SHARDS, RUNS = f"data=s3://{BUCKET}/chaos/shards", f"run.storage=s3://{BUCKET}/chaos/runs"


@pytest.fixture(scope="module")
def full() -> Iterator[Platform]:
    needs_postgres_user()
    with full_platform() as found:
        shard = f"jobs/shard.py source=sample {SHARDS}"
        until_succeeded(JobServer(found.dashboard), shard, Counter(), attempts=1)
        yield found


@pytest.fixture(scope="module")
def undisturbed(full: Platform) -> dict[str, str]:
    assert train(full, "undisturbed") == {"jobs submitted": 1}
    return weights("undisturbed")


@pytest.fixture(autouse=True)
def _client(full: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    become_client(full, monkeypatch)


def train(full: Platform, name: str) -> Counter[str]:
    """Trains a stage to its end, and returns what became of its jobs."""
    settings = f"{SHARDS} {RUNS} run.name={name} train.workers=2 train.checkpoint_every={EVERY}"
    job = f"jobs/train.py stage=autoencoder {settings} stages.autoencoder.train.steps={STEPS}"
    counts: Counter[str] = Counter()
    until_succeeded(JobServer(full.dashboard), job, counts, attempts=3)
    return counts


def weights(name: str) -> dict[str, str]:
    """The digests of the weights with which a run has ended."""
    found = run_checkpoints(load_config([RUNS]), f"{name}-autoencoder").newest()
    assert found is not None
    assert found.step == STEPS
    return {file: found.files[file].sha256 for file in (MODEL, EMA)}


def steps_of(name: str) -> list[int]:
    return patient(run_checkpoints(load_config([RUNS]), f"{name}-autoencoder").steps)


def servers(full: Platform, name: str) -> list[psutil.Process]:
    """The processes of one of the platform's servers."""
    return [process for found, process in marked(Path(full.home)) if found == name]


def one_worker(full: Platform) -> list[psutil.Process]:
    """One process that trains."""
    return [worker for process in servers(full, "Ray") for worker in training_workers(process)][:1]


@pytest.mark.parametrize("lost", ["worker", "MLflow", "PostgreSQL", "S3", "TLS", "Ray"])
def test_a_training_survives(full: Platform, undisturbed: dict[str, str], lost: str) -> None:
    name = f"without-{lost}".lower()
    with ThreadPoolExecutor(1) as background:
        training = background.submit(train, full, name)
        deadline = time.monotonic() + PATIENCE_S
        while not (saved := steps_of(name)):
            assert not training.done(), training.result()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        killed = one_worker(full) if lost == "worker" else servers(full, lost)
        assert killed
        for process in killed:
            with suppress(psutil.NoSuchProcess):  # some end with the first
                process.kill()
        assert max(saved) <= STEPS // 2
        assert not training.done()
        jobs = training.result()
    assert weights(name) == undisturbed
    # Only a job whose head is gone has to be submitted again.
    assert (jobs == {"jobs submitted": 1}) == (lost != "Ray")
