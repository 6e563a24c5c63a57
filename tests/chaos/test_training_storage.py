"""Trainings whose checkpoints, object store, disk or MLflow server fail them: each arrives at the
weights and the history of one that nobody disturbed, or says why it cannot."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.runs.checkpoint import MODEL
from tests.support.chaos import EVERY, SAME, STEPS, NewRun, Reference, tell
from tests.support.faulty_proxy import FaultyProxy, Seen
from tests.support.mlflow_server import MLflowServer
from tests.support.ray_nodes import Nodes

pytestmark = pytest.mark.slow


def test_workers_are_killed_while_they_write_a_checkpoint(
    s3_proxy: FaultyProxy, s3_url: str, nodes: Nodes, new_run: NewRun, reference: Reference
) -> None:
    stalled, go_on = threading.Event(), threading.Event()

    def stall(seen: Seen) -> None:
        if seen.method == "PUT" and "/step-000300-" in seen.path and not stalled.is_set():
            stalled.set()
            go_on.wait(120)

    s3_proxy.before = stall
    nodes.add(2)
    run = new_run(f"run.storage={s3_url}")
    run.until(stalled.is_set, "the upload of step 300")
    fault = time.time()
    for worker in nodes.workers():
        worker.kill()
    assert run.checkpoints.steps()[-1] == 250
    go_on.set()
    run.until_said("resuming at step 250")
    reference.check(run)
    assert not [c for c, complete in run.checkpoints.present().items() if not complete]
    tell("all workers are killed (-9) during an upload to S3", run.damage(fault), SAME)


def test_the_newest_checkpoint_is_damaged(
    nodes: Nodes, new_run: NewRun, reference: Reference
) -> None:
    nodes.add(2)
    run = new_run()
    run.until_saved(200)
    fault = time.time()
    run.kill()
    run.until(lambda: not nodes.workers(), "the end of the workers", running=False)
    newest = run.result()
    path = newest.local() / MODEL
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    run.start()
    reference.check(run)
    before = newest.step - EVERY
    assert f"is damaged (file {MODEL}" in run.output
    assert f"going back to step {before}" in run.output
    assert f"resuming at step {before} of" in run.output
    tell("the driver is killed and the newest checkpoint damaged", run.damage(fault), SAME)


def test_the_object_store_is_away_during_an_upload(
    s3_proxy: FaultyProxy, s3_url: str, nodes: Nodes, new_run: NewRun, reference: Reference
) -> None:
    away, begun = threading.Event(), threading.Event()

    def drop(seen: Seen) -> None:
        if seen.method == "PUT" and "/step-000400-" in seen.path and not begun.is_set():
            away.set()
            begun.set()
        if away.is_set():
            seen.fault = "drop"

    s3_proxy.before = drop
    nodes.add(2)
    run = new_run(f"run.storage={s3_url}", "train.checkpoint_every=400")
    run.until(begun.is_set, "the upload of step 400")
    fault = time.time()
    # It trains to the end meanwhile.
    run.until_step(STEPS)
    time.sleep(max(0.0, fault + 30 - time.time()))
    away.clear()
    reference.check(run)
    assert run.checkpoints.steps() == [400, 800]
    tell("S3 is away for 30 s during an upload", run.damage(fault), SAME)


def test_mlflow_is_away_for_a_minute(
    mlflow_server: MLflowServer,
    nodes: Nodes,
    new_run: NewRun,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    nodes.add(2)
    run = new_run()
    run.until_step(200)
    fault = time.time()
    mlflow_server.kill()
    run.until_saved(STEPS)
    time.sleep(max(0.0, fault + 60 - time.time()))
    mlflow_server.start()
    reference.check(run)
    assert "MLflow answers again, and everything has arrived" in run.output
    tell("MLflow is away for a minute", run.damage(fault), f"{SAME}; every value arrived once")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free))
    return ballast


def test_the_disk_is_full_for_a_while(
    small_disk: Path, nodes: Nodes, new_run: NewRun, reference: Reference
) -> None:
    nodes.add(2)
    run = new_run(f"run.storage={small_disk}")
    run.until_saved(100)
    fault = time.time()
    ballast = fill(small_disk)
    run.until_said("warning: no checkpoint: the disk that holds")
    before = run.checkpoints.steps()[-1]
    run.until_step(before + 3 * EVERY)
    assert run.checkpoints.steps()[-1] == before
    ballast.unlink()
    run.until_saved(before + EVERY)
    reference.check(run)
    tell("the disk is full for a while", run.damage(fault), SAME)


def test_the_disk_is_full_to_the_end(small_disk: Path, nodes: Nodes, new_run: NewRun) -> None:
    nodes.add(2)
    run = new_run(f"run.storage={small_disk}", "stream.retry_seconds=5")
    run.until_saved(100)
    fault = time.time()
    fill(small_disk)
    assert run.wait() == 2
    last = run.output.splitlines()[-1]
    assert last.startswith("error: training of 'small-autoencoder' failed: the checkpoint of step")
    assert "MiB left" in last
    assert run.result().step >= 100
    tell("the disk is full to the end", run.damage(fault), "exit 2; earlier checkpoints intact")
