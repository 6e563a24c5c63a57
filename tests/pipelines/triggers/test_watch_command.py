"""`srmill watch` as users start, stop and kill it; the job is a short one, or the real one."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.job import NOT_PROMOTED
from pipelines.storage.clock import utc
from tests.conftest import SMALL, Runner
from tests.pipelines.test_cli import srmill
from tests.support.forked import ForkedPython
from tests.support.receivers import WebhookServer
from tests.support.triggered import ShortJob, until

SETTINGS = [f"recipe={SMALL}"]
Start = Callable[..., ForkedPython]


@pytest.fixture
def watch(job: ShortJob, folder: Path) -> Start:
    return lambda *options: job.srmill("watch", folder, *SETTINGS, *options)


def ended(process: ForkedPython) -> tuple[int, str]:
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def test_a_cron_polls_once_and_its_code_is_the_jobs(watch: Start, job: ShortJob) -> None:
    job.ends_with(2)
    code, said = ended(watch("--once"))
    assert code == 1
    assert re.search(r"small-\w{8}-1 has failed\.\n$", said)
    code, said = ended(watch("--once"))
    assert code == 0
    assert "waits for 1 more photo" in said
    # A model that the gate refused is no failure of the retraining.
    for count, ending in enumerate((0, NOT_PROMOTED), 2):
        job.ends_with(ending)
        code, said = ended(watch("--once", "--now"))
        assert code == 0
        assert "has succeeded." in said
        assert len(job.started) == count


def test_a_killed_watch_finds_its_job_again_and_starts_nothing_twice(
    watch: Start, job: ShortJob
) -> None:
    job.busy(True)
    first = watch()
    until(lambda: job.started)
    first.kill()
    first.wait()
    assert job.processes()
    for _ in range(2):
        code, said = ended(watch("--once"))
        assert code == 0
        assert "-1 runs\n" in said
    job.busy(False)
    until(lambda: not job.processes())
    code, said = ended(watch("--once"))
    assert "-1 has succeeded; waits for 1 more photo" in said
    assert len(job.started) == 1


def test_a_killed_job_goes_on_under_its_name(watch: Start, job: ShortJob) -> None:
    job.busy(True)
    first = watch()
    until(lambda: job.started)
    for process in (*job.processes()[0].parents()[:2], *job.processes()):  # watch, shell and job
        process.kill()
    first.wait()
    job.busy(False)
    code, said = ended(watch("--once"))
    assert code == 0
    assert re.search(r"(small-\w{8}-1) was interrupted: goes on \1 on this machine", said)
    assert "has succeeded." in said
    assert len(job.started) == 2
    assert job.started[0] == job.started[1]


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_watch_lets_its_job_save_its_work(
    stop: signal.Signals, code: int, watch: Start, job: ShortJob
) -> None:
    job.busy(True)
    first = watch()
    until(lambda: job.started)
    first.send_signal(stop)
    assert ended(first)[0] == code
    assert job.saved
    assert not job.processes()
    job.busy(False)
    assert "was interrupted: goes on" in ended(watch("--once"))[1]


def test_it_goes_on_polling_when_the_source_is_away_for_a_while(
    watch: Start, job: ShortJob, folder: Path
) -> None:
    running = watch("--every", 1)
    until(lambda: job.started)
    folder.rename(folder.with_name("away"))
    for line in running.stdout:
        if "there is no folder" in line:
            assert line.endswith("The next poll tries again.\n")
            break
    folder.with_name("away").rename(folder)
    (folder / "b.png").write_bytes(b"photo")
    until(lambda: len(job.started) == 2)
    running.terminate()
    assert ended(running)[0] == 143


def test_a_real_retraining_is_started_and_its_failure_is_told(
    photos: Path, webhook: WebhookServer, run_forked: Runner
) -> None:
    command = ["-m", "pipelines.cli", "watch", str(photos), *SETTINGS, "benchmark=/nosuch"]
    done = run_forked(*command, "--once", SRMILL_NOTIFY_WEBHOOK=webhook.url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "6 photos, 6 new; enough for --photos 1: starts small-" in done.stdout
    assert "error: there is no benchmark set '/nosuch'" in done.stderr
    [(_, _, document)] = webhook.got
    assert document["event"] == "failed"
    assert document["run"].startswith("small-")
    done = run_forked(*command, "--once", SRMILL_NOTIFY_WEBHOOK=webhook.url)
    assert done.returncode == 0
    assert len(webhook.got) == 1


def test_a_dry_run_says_what_it_would_do(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert srmill("watch", photos, *SETTINGS, "--photos", 6, "--dry-run") == 0
    assert re.search(
        r"starts small-\w{8}-1 on this machine \(dry run\)\n$", capsys.readouterr().out
    )
    assert not Path(os.environ["SRMILL_HOME"]).exists()


def test_a_tick_that_comes_late_is_skipped(watch: Start, job: ShortJob) -> None:
    now = time.time()
    for tick in (utc(now - 7.5 * 3600), utc(now - 7.5 * 3600)[11:16]):
        code, said = ended(watch("--once", "--tick", tick, "--max-delay", "3h"))
        assert code == 0
        assert re.search(
            r"photos: the tick of 20\S+Z comes 7\.5 hours late \(--max-delay 3h\): skipped\n$", said
        )
    assert job.started == []
    code, said = ended(watch("--once", "--tick", utc(now - 60)))
    assert code == 0
    assert "has succeeded." in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tick", "noon"], "--tick is 'noon': write the time of the schedule in UTC"),
        (["--tick", "24:00"], "--tick is '24:00': write the time"),
        (["--tick", "02:00", "--max-delay", "soon"], "--max-delay is 'soon': write a number of"),
        (["--max-delay", "3h"], "--max-delay needs --tick"),
        (["--photos", "0"], "--photos must be at least 1, not 0."),
        (["--hours", "-1"], "--hours must be more than 0"),
        (["--hours", "nan"], "--hours must be more than 0"),
        (["--every", "0"], "--every must be 1 to"),
        (["--address", "host:8265"], "the address of the job server is not of the form http"),
        (["--state", "ftp://x"], "is neither a path nor s3://bucket/prefix"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    options: list[str], message: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert srmill("watch", photos, *SETTINGS, *options, "--once") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
