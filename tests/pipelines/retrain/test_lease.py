"""One job at a time retrains a model: real processes, over a folder and a real S3 server."""

import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.errors import BusyError, UserError
from pipelines.job import BUSY
from pipelines.retrain import chain, standing
from pipelines.retrain import lease as turns
from pipelines.retrain.history import Retrainings, model_store
from pipelines.retrain.journal import open_journal
from pipelines.retrain.lease import Holder, last_holder, turn
from pipelines.runs.lease import POLICY
from pipelines.storage.retries import RetryPolicy
from tests.conftest import ROOT, SMALL
from tests.pipelines.retrain.test_history import RECORD
from tests.support.clock import TurnedClock
from tests.support.holders import Hasty, holder
from tests.support.processes import FORK, inherit


@pytest.fixture(params=["local", "s3"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_url")


def config_for(records: str, run: str = "mine") -> Config:
    return load_config([f"recipe={SMALL}", f"run.name={run}", f"retrain.records={records}"])


class Restless(Hasty):
    """A sleep lasts for a moment, so that a holder can renew its lease meanwhile."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        time.sleep(0.2)


def hasty() -> RetryPolicy:
    return replace(POLICY, clock=Restless())


def _hold(records: str, held: "threading.Event") -> None:
    with turn(config_for(records, "theirs"), hasty()):
        held.set()
        time.sleep(600)


def test_a_second_retraining_is_told_who_holds_the_model_since_when(records: str) -> None:
    with holder(_hold, records) as process:
        with pytest.raises(BusyError) as caught, turn(config_for(records), hasty()):
            pass
        assert re.fullmatch(
            rf"model 'small' is being retrained by \S+@\S+ \(process {process.pid}, "
            r"run\.name=theirs\) since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ: wait for it, or stop it\.",
            str(caught.value),
        )
        # Another model is another matter.
        other = config_for(records)
        other.mlflow.model = "other"
        with turn(other, hasty()) as mine:
            assert mine.number == 1


def _race(places: list[str], barrier: Any, won: Any, ends: Any) -> None:
    for number, records in enumerate(places):
        barrier.wait(60)
        try:
            with turn(config_for(records)):
                with won.get_lock():
                    won[number] += 1
                ends.wait(60)
        except BusyError:
            ends.wait(60)


def test_of_two_that_start_at_once_one_is_left(tmp_path: Path, s3_url: str) -> None:
    places = [str(tmp_path), s3_url]
    barrier, ends, won = FORK.Barrier(2), FORK.Barrier(2), FORK.Array("i", len(places))
    race = inherit(_race)
    both = [FORK.Process(target=race, args=(places, barrier, won, ends)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(240)
    assert [process.exitcode for process in both] == [0, 0]
    assert list(won) == [1, 1]


def test_a_killed_holder_is_followed_by_the_next_number(records: str) -> None:
    config = config_for(records)
    with holder(_hold, records) as process:
        process.kill()
        process.join()
        left = last_holder(config)
        assert left is not None
        assert (left.process, left.released) == (process.pid, None)
        with turn(config, replace(POLICY, clock=TurnedClock())) as mine:
            assert mine.number == 2
            mine.check()
            now = last_holder(config)
            assert now is not None
            assert (now.process, now.run) == (os.getpid(), "mine")
    released = last_holder(config)
    assert released is not None
    assert released.released is not None
    with turn(config, hasty()) as next_one:
        assert next_one.number == 3


def test_no_number_is_given_twice(records: str) -> None:
    store = model_store(config_for(records))

    def get(number: int) -> int:
        return turns._next(store, "small", Holder("a", number, "b", "c")).number

    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(get, range(8)))
    assert sorted(numbers) == list(range(1, 9))
    for number in range(turns._KEPT):
        get(number)
    assert len(store.names()) == turns._KEPT


def test_whoever_was_overtaken_neither_registers_nor_writes(records: str) -> None:
    """Its machine slept, for instance, and another job had to take it for dead."""
    config = config_for(records)
    with turn(config, hasty()) as mine:
        journal, kept = open_journal(config, RECORD.given, mine), Retrainings(mine.store)
        with journal.kept():
            begun = kept.all()
            turns._next(mine.store, "small", Holder("other@host", 7, "theirs", "now"))
            with pytest.raises(UserError, match="which took over from this job"):
                mine.check()
            register = chain(config)[-1]
            with pytest.raises(UserError, match="which took over from this job"):
                journal.begins(register)
            journal.begins(replace(register, job="export", name="export"))
    assert len(begun) == 1
    assert kept.all() == begun
    last = last_holder(config)
    assert last is not None
    assert (last.who, last.released) == ("other@host", None)
    assert standing._lease(config).startswith(
        "'small' is being retrained by other@host (process 7, run.name=theirs) since now, unless"
    )


def test_a_job_that_finds_another_one_ends_with_a_code_of_its_own(
    photos: Path, tmp_path: Path
) -> None:
    taught, home = SMALL.with_name("taught.yaml"), tmp_path / "home"
    records = str(home / "work" / "retrain")
    config = load_config([f"recipe={taught}", f"retrain.records={records}", "run.name=theirs"])
    with turn(config):
        done = subprocess.run(
            [sys.executable, "jobs/retrain.py", f"recipe={taught}", f"source={photos}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"SRMILL_NOTIFY_WEBHOOK": "http://127.0.0.1:9"},
        )  # fmt: skip
    assert done.returncode == BUSY == 5, done.stdout + done.stderr
    assert done.stderr.startswith("busy: model 'taught' is being retrained by ")
    assert "run.name=theirs" in done.stderr
    # It is no failure, of which people would be told.
    assert done.stderr.count("\n") == 1
    assert Retrainings(model_store(config)).all() == []
