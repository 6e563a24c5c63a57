"""Measures the full local platform under load: many jobs, many versions, many clients at once."""

import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.local.platform import Platform
from infra.local.servers.seaweedfs import BUCKET
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.models.bundle import load_bundle
from pipelines.models.load import fetch
from pipelines.registry import register
from pipelines.triggers.job_server import JobServer
from tests.conftest import SMALL
from tests.support.bundles import make_bundle
from tests.support.full_platform import become_client, full_platform
from tests.support.postgres import needs_postgres_user

pytestmark = pytest.mark.timeout(3600)

JOBS, BUNDLES, CLIENTS = 20, 200, 50
#: Bytes of memory that each job asks for: what a training of a small network takes here.
MEMORY = 2_000_000_000
CHAMPION = ModelReference.parse("models:/small@champion")


@pytest.fixture(scope="module")
def full() -> Iterator[Platform]:
    needs_postgres_user()
    with full_platform() as found:
        yield found


@pytest.fixture(autouse=True)
def _client(full: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    become_client(full, monkeypatch)


def test_many_jobs_at_once(full: Platform) -> None:
    server, data = JobServer(full.dashboard), f"data=s3://{BUCKET}/load/shards"
    wait(server, [server.submit(f"jobs/shard.py source=sample {data}")])
    began = time.perf_counter()
    jobs = [
        server.submit(
            f"jobs/train.py stage=autoencoder {data} run.name=load-{number} "
            f"run.storage=s3://{BUCKET}/load/runs stages.autoencoder.train.steps=2",
            memory=MEMORY,
        )
        for number in range(JOBS)
    ]
    sent = time.perf_counter() - began
    most, running = wait(server, jobs)
    seconds = time.perf_counter() - began
    print(
        f"\n{JOBS} trainings of 2 steps, submitted in {sent:.1f} s: all succeeded after "
        f"{seconds:.0f} s; at most {running} ran at once, with {most:.1f} GiB of memory in use"
    )


def wait(server: JobServer, jobs: list[str]) -> tuple[float, int]:
    """Waits until all have succeeded.

    Returns the most memory that the machine used, in GiB, and the most jobs that ran at once.
    """
    most, running, left = 0.0, 0, set(jobs)
    while left:
        time.sleep(5)
        most = max(most, psutil.virtual_memory().used / 2**30)
        found = {job: server.status(job) for job in left}
        running = max(running, list(found.values()).count("RUNNING"))
        for job, status in found.items():
            if status not in ("PENDING", "RUNNING"):
                assert status == "SUCCEEDED", server.client().get_job_logs(job)
                left.remove(job)
    return most, running


def test_many_versions(full: Platform, tmp_path: Path) -> None:
    times = []
    for number in range(BUNDLES):
        folder = tmp_path / str(number)
        # Every tenth is better than the champion.
        make_bundle(folder, psnr=30 + (number // 10 if number % 10 == 0 else -1) + number / 1e4)
        config = load_config([f"recipe={SMALL}", f"bundle={folder}"])
        began = time.perf_counter()
        assert register.run(config) == str(number + 1)
        times.append(time.perf_counter() - began)
        shutil.rmtree(folder)
    tenth = BUNDLES // 10
    print(
        f"\n{BUNDLES} bundles through the gate: {statistics.median(times):.2f} s each; the first "
        f"{tenth} {statistics.median(times[:tenth]):.2f} s, the last {tenth} "
        f"{statistics.median(times[-tenth:]):.2f} s"
    )


def test_many_clients_at_once(full: Platform, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", psnr=90.0)
    register.run(load_config([f"recipe={SMALL}", f"bundle={tmp_path / 'bundle'}"]))
    expected = load_bundle(tmp_path / "bundle").digest
    alone = run_clients(1, expected)
    together = run_clients(CLIENTS, expected)
    print(
        f"\n{CLIENTS} clients fetch a champion at once: all got its bytes; {max(together):.1f} s "
        f"for the last, {statistics.median(together):.1f} s in the middle, {alone[0]:.1f} s for "
        "one alone"
    )


def run_clients(count: int, expected: str) -> list[float]:
    """Seconds of each of so many clients, every one a process of its own."""
    context = multiprocessing.get_context("fork")  # what they import is imported already
    queue, gate = context.SimpleQueue(), context.Barrier(count)
    clients = [context.Process(target=client, args=(queue, gate)) for _ in range(count)]
    for each in clients:
        each.start()
    found = [queue.get() for _ in clients]
    for each in clients:
        each.join()
    assert {digest for _, digest in found} == {expected}
    return [seconds for seconds, _ in found]


def client(queue: "multiprocessing.SimpleQueue[tuple[float, str]]", gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    began = time.perf_counter()
    try:
        digest = load_bundle(fetch(CHAMPION, load_config([]).mlflow)).digest
    except Exception as error:  # whatever it is, the others go on, and the test fails
        digest = f"{type(error).__name__}: {error}"
    queue.put((time.perf_counter() - began, digest))
    os._exit(0)
