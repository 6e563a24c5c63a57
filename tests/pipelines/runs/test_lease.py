"""Leases on runs in a folder and on a real S3 server, between real processes."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.runs import lease as lease_module
from pipelines.runs.checkpoint import Checkpoints
from pipelines.runs.lease import (
    ABANDONED_S,
    BEAT_S,
    LOOK_S,
    OBJECT,
    POLICY,
    SETTLE_S,
    lease,
    of_run,
)
from pipelines.storage.clock import Clock
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import Store
from tests.support.checkpoints import open_run
from tests.support.clock import TurnedClock
from tests.support.faulty_proxy import FaultyProxy
from tests.support.holders import Hasty, holder


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    where = tmp_path / "run" if request.param == "local" else request.getfixturevalue("s3_url")
    return open_run(where, tmp_path)


def by(clock: Clock) -> RetryPolicy:
    return replace(POLICY, clock=clock)


class Patient(TurnedClock):
    """A sleep lasts until the lease's holder has renewed it."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        seen = self.store.read(OBJECT)
        while self.store.read(OBJECT) == seen:
            time.sleep(0.01)


def _hold(run: Checkpoints, held: "threading.Event") -> None:
    with lease(run.store, of_run(run.name), by(Hasty())):
        held.set()
        time.sleep(600)


def test_a_second_job_is_refused_while_the_first_lives(run: Checkpoints) -> None:
    told = r"is being trained by another job.*run\.name\.$"
    with holder(_hold, run):
        clock = TurnedClock() if run.directory else Patient(run.store)
        with pytest.raises(UserError, match=told), lease(run.store, of_run(run.name), by(clock)):
            pass
    assert clock.now() <= LOOK_S


def test_a_lease_that_was_released_is_free_at_once(
    run: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = by(clock := TurnedClock())
    for _ in range(2):
        with lease(run.store, of_run(run.name), policy):
            pass
    with pytest.raises(ZeroDivisionError), lease(run.store, of_run(run.name), policy):
        raise ZeroDivisionError
    with lease(run.store, of_run(run.name), policy):
        pass
    assert clock.now() == (0 if run.directory else 4 * SETTLE_S)
    assert capsys.readouterr().out == ""
    assert [name for name in run.store.names() if name != ".lock"] == []


def test_the_lease_of_a_killed_job_is_taken_over(
    run: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder(_hold, run) as process:
        process.kill()
        process.join()
        clock = TurnedClock()
        with lease(run.store, of_run(run.name), by(clock)):
            said = capsys.readouterr().out.splitlines()
    if run.directory is None:
        first, last = said
        assert ABANDONED_S < clock.now() < ABANDONED_S + LOOK_S + 2 * SETTLE_S
        assert f"process {process.pid} on " in first
        assert "waiting up to 45 s" in first
        assert last.endswith("shows no sign of life, so this job takes over.")


def test_one_of_two_that_claim_a_lease_at_once_gets_it(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(s3_url, tmp_path)
    outcomes, both, ends = [], threading.Barrier(2), threading.Barrier(2)
    settled = threading.Barrier(2)
    write = lease_module._ObjectLease._write

    def write_together(held: Any) -> None:
        if held._thread.ident is None:  # its claim, not a sign of life
            both.wait(30)
        write(held)

    monkeypatch.setattr(lease_module._ObjectLease, "_write", write_together)

    class Settling(TurnedClock):
        """The time to settle lasts until both have claimed."""

        def sleep(self, seconds: float) -> None:
            settled.wait(30)

    def claim() -> None:
        try:
            with lease(run.store, of_run(run.name), by(Settling())):
                ends.wait(30)
                outcomes.append("held")
        except UserError as error:
            ends.wait(30)
            outcomes.append(str(error))

    claims = [threading.Thread(target=claim) for _ in range(2)]
    for thread in claims:
        thread.start()
    for thread in claims:
        thread.join()
    refused, held = sorted(outcomes, key=len, reverse=True)
    assert held == "held"
    assert "is being trained by another job" in refused


def test_a_job_that_lost_its_lease_is_stopped(s3_url: str, tmp_path: Path) -> None:
    """Its machine may have slept, so that another job had to take it for dead."""
    run = open_run(s3_url, tmp_path)

    def sleep_through_it() -> None:
        clock = TurnedClock()
        with lease(run.store, of_run(run.name), by(clock)):
            run.store.write(OBJECT, b'{"holder": "another"}')
            for _ in range(3000):
                clock.turn(BEAT_S)
                time.sleep(0.01)
            pytest.fail("nobody stopped the job")

    with pytest.raises(UserError, match="was taken over by another job"):
        sleep_through_it()
    assert run.store.read(OBJECT) == b'{"holder": "another"}'


def test_a_lease_that_nobody_can_read_is_an_abandoned_one(s3_url: str, tmp_path: Path) -> None:
    run = open_run(s3_url, tmp_path)
    run.store.write(OBJECT, b"not even JSON")
    with lease(run.store, of_run(run.name), by(TurnedClock())):
        assert run.store.read(OBJECT) != b"not even JSON"


def test_an_interrupt_stays_an_interrupt(run: Checkpoints) -> None:
    policy = by(TurnedClock())
    with pytest.raises(KeyboardInterrupt), lease(run.store, of_run(run.name), policy):
        raise KeyboardInterrupt
    with lease(run.store, of_run(run.name), policy):
        pass


def test_a_network_that_is_away_for_a_moment_does_not_end_a_lease(
    s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    run, refused, back = open_run(s3_url, tmp_path), [0], threading.Event()

    def away(seen: object) -> None:
        if refused[0] < 4:
            refused[0] += 1
            seen.fault = "slow_down"  # type: ignore[attr-defined]
        elif refused[0] == 4:
            back.set()

    clock = TurnedClock()
    with lease(run.store, of_run(run.name), by(clock)):
        before = run.store.read(OBJECT)
        s3_proxy.before = away
        while not back.wait(0.01):
            clock.turn(1)
        s3_proxy.before = lambda seen: None
        while run.store.read(OBJECT) == before:
            clock.turn(1)
            time.sleep(0.01)
