"""Checkpoints written by several ranks that are killed, cut off and outlived by others."""

import itertools
import math
import multiprocessing
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from pipelines.errors import UserError
from pipelines.runs.checkpoint import Checkpoints, RunState
from pipelines.runs.writer import Retention, write_weights
from tests.support.checkpoints import (
    at,
    damage,
    folders,
    open_run,
    open_writer,
    stage,
    write,
)
from tests.support.clock import TurnedClock
from tests.support.faulty_proxy import FaultyProxy, Seen

FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    """Both kinds of store keep the same promises."""
    where = tmp_path / "run" if request.param == "local" else request.getfixturevalue("s3_url")
    return open_run(where, tmp_path)


def test_state_and_weights_come_back(run: Checkpoints) -> None:
    model = {"a": torch.rand(4, 3), "b": torch.rand(2)}
    ema = {"a": torch.rand(4, 3)}
    state = RunState(
        5, 40, 1, 2, 0, "digest", {"seed": 0}, {"loss": 0.5}, 27.25, {"x": [1]}, "s", {}
    )
    writer = open_writer(run, "a")
    write_weights(writer.folder(5), model, ema, state)
    writer.publish(5, state.score)
    writer.wait()
    newest = run.newest_intact()
    assert newest is not None
    assert newest.state() == state
    assert newest.marker.score == 27.25
    assert torch.equal(newest.ema()["a"], ema["a"])
    weights = newest.weights()
    assert torch.equal(weights["a"], ema["a"])
    assert torch.equal(weights["b"], model["b"])


def _rank(run: Checkpoints, rank: int) -> None:
    writer = open_writer(run, "a", rank=rank, world_size=3, retention=Retention(2))
    for step in (10, 20, 30):
        stage(writer, step, size=50_000)
        writer.publish(step)
    writer.wait()
    writer.close()


def test_ranks_that_are_processes_write_one_checkpoint(run: Checkpoints) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(run, rank)) for rank in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    assert run.steps() == [20, 30]
    assert run.newest_intact() == at(run, 30)
    assert at(run, 30).files.keys() == {
        *(f"model-{rank}" for rank in range(3)),
        *(f"engine/shard-{rank}.pt" for rank in range(3)),
    }
    assert {name for name in folders(run) if name.startswith(".")} == set()


def test_without_every_rank_there_is_no_checkpoint(run: Checkpoints) -> None:
    clock = TurnedClock()
    writer = open_writer(run, "b", world_size=2, budget_s=300, clock=clock)
    stage(writer, 1)
    writer.publish(1)
    with pytest.raises(UserError, match=r"stays incomplete: no file of ranks 1 came for 300 s"):
        writer.wait()
    assert 300 < clock.now() < 310
    # The note of another attempt's rank is not one of this attempt's.
    other = open_writer(run, "a", rank=1, world_size=2)
    stage(other, 1)
    other.publish(1)
    other.wait()
    assert run.steps() == []


def test_a_failure_is_raised_by_the_next_publish_and_once(run: Checkpoints) -> None:
    writer = open_writer(run, "a", world_size=2, clock=TurnedClock())
    stage(writer, 1)
    writer.publish(1)
    with pytest.raises(UserError, match="stays incomplete"):
        writer.publish(2)
    writer.wait()
    writer.close()


def test_closing_gives_up_on_dead_ranks_but_not_on_slow_ones(run: Checkpoints) -> None:
    leader, slow = (open_writer(run, "a", rank=rank, world_size=2) for rank in (0, 1))
    for writer in (leader, slow):
        stage(writer, 1)
    leader.publish(1)
    closing = threading.Thread(target=leader.close)
    closing.start()
    slow.publish(1)
    slow.close()
    closing.join(60)
    assert run.newest_intact() == at(run, 1)

    alone = open_writer(run, "b", world_size=2, budget_s=math.inf, clock=TurnedClock())
    stage(alone, 2)
    alone.publish(2)
    alone.close()  # returns, which is the assertion
    assert run.steps() == [1]


def test_publishing_goes_on_in_the_background(
    s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    run, go = open_run(s3_url, tmp_path), threading.Event()
    writer = open_writer(run, "a")
    stage(writer, 1)

    def hold(seen: Seen) -> None:
        if seen.method == "PUT":
            assert go.wait(30)

    s3_proxy.before = hold
    writer.publish(1)
    stage(writer, 2)
    assert run.steps() == []
    go.set()
    writer.publish(2)
    writer.wait()
    assert run.steps() == [1, 2]


def _killed_at(run: Checkpoints, step: int, count: int) -> bool:
    """Kills an attempt at `step` when it touches the run's files for the `count`-th time.

    Returns False if the attempt ends before that.
    """
    pid = os.fork()
    if pid == 0:
        touched = itertools.count(1)

        def kill(event: str, arguments: tuple[object, ...]) -> None:
            if event not in FILE_EVENTS:
                return
            # shutil.rmtree names files relative to an open folder, the last argument.
            inside = event in ("os.remove", "os.rmdir") and arguments[-1] != -1
            if (inside or str(arguments[0]).startswith(run.location)) and next(touched) == count:
                os._exit(9)

        sys.addaudithook(kill)
        with suppress(BaseException):
            write(run, f"cut{count}", step, retention=Retention(1))
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


def check_what_is_left(run: Checkpoints, step: int) -> bool:
    """Checks a run after an attempt at `step` that was cut short.

    There must be an intact checkpoint, and the next attempt must succeed. Returns True if the
    checkpoint of `step` was complete.
    """
    for checkpoint in run.complete():
        checkpoint.local()
    newest = run.newest_intact()
    assert newest is not None
    assert newest.step in (step - 1, step)
    write(run, f"after{step}", step, retention=Retention(1))
    assert folders(run) == {f"step-{step:06d}-after{step}"}
    return newest.step == step


def test_a_process_that_is_killed_at_any_point_leaves_a_checkpoint_or_none(
    tmp_path: Path,
) -> None:
    run, completed, killed = open_run(tmp_path / "run", tmp_path), [], True
    write(run, "first", 1)
    while killed:
        step = 2 + len(completed)
        killed = _killed_at(run, step, count=step - 1)
        completed.append(check_what_is_left(run, step))
    assert completed.index(True) > 10
    assert len(completed) - completed.index(True) > 5


@pytest.mark.parametrize("kind", ["gone", "lost"])
def test_a_network_that_ends_at_any_request_leaves_a_checkpoint_or_none(
    s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path, kind: str
) -> None:
    """gone: the request is not carried out; lost: it is, and the writer never learns of it."""
    run, completed, failed = open_run(s3_url, tmp_path), [], True
    write(run, "first", 1)
    while failed:
        step = 2 + len(completed)
        requests = itertools.count(2)

        def fail(seen: Seen, requests: itertools.count = requests, step: int = step) -> None:
            if (number := next(requests)) >= step:
                seen.fault = kind if number == step else "gone"

        s3_proxy.before = fail
        with suppress(UserError):
            write(run, f"cut{step}", step, retention=Retention(1))
        failed = next(requests) > step
        s3_proxy.before = lambda seen: None
        completed.append(check_what_is_left(run, step))
    assert completed.index(True) > 5
    assert len(completed) - completed.index(True) > 3


def test_an_outage_of_some_seconds_delays_a_checkpoint(
    s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    run = open_run(s3_url, tmp_path)
    refused = itertools.count()

    def away(seen: Seen) -> None:
        if seen.method == "PUT" and next(refused) < 6:
            seen.fault = "drop"

    s3_proxy.before = away
    write(run, "a", 1)
    assert next(refused) > 6
    assert run.newest_intact() == at(run, 1)


def test_an_orphan_of_an_old_attempt_harms_no_other(run: Checkpoints) -> None:
    old = [
        open_writer(run, "old", rank=rank, world_size=2, retention=Retention(1)) for rank in (0, 1)
    ]
    for orphan in old:
        stage(orphan, 2)
    new = open_writer(run, "new", world_size=2, clock=TurnedClock())
    assert folders(run) == set()  # it swept their staging
    stage(new, 2)
    new.publish(2)
    with pytest.raises(UserError, match="stays incomplete"):
        new.wait()
    write(run, "newer", 1, 2)
    stored = {name: run.store.read(name) for name in run.store.names("step-") if "new" in name}

    for orphan in old:
        orphan.publish(2)
    for orphan in old:
        with pytest.raises(UserError, match="another job trains this run"):
            orphan.wait()
        stage(orphan, 3)
        orphan.publish(3)
    for orphan in old:
        orphan.wait()
    assert stored.items() <= {name: run.store.read(name) for name in run.store.names()}.items()
    # What the orphan made is a whole checkpoint, and goes like others when its time has come.
    assert run.newest_intact() == at(run, 3)
    assert at(run, 3).attempt == "old"
    write(run, "last", 3, retention=Retention(1))
    assert folders(run) == {"step-000003-last"}


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(1), {6}),
        (Retention(2), {5, 6}),
        (Retention(99), {1, 2, 3, 4, 5, 6}),
        (Retention(1, best=1), {3, 6}),
        (Retention(1, best=2), {2, 3, 6}),
        (Retention(1, best=99), {2, 3, 5, 6}),
        (Retention(1, every=2), {2, 4, 6}),
        (Retention(2, best=1, every=4), {3, 4, 5, 6}),
    ],
)
def test_retention_keeps_the_last_the_best_and_every_nth(
    run: Checkpoints, retention: Retention, kept: set[int]
) -> None:
    scores = {1: None, 2: 30.0, 3: 31.0, 4: float("nan"), 5: 29.0, 6: 28.5}
    assert retention.kept(scores) == kept
    write(run, "a", *scores, scores=scores, retention=retention)
    # A step is judged whenever a later one is complete, so an early best may be gone by then.
    assert set(run.steps()) == kept
    assert run.newest_intact() == at(run, 6)


def test_the_only_intact_checkpoint_is_never_removed(run: Checkpoints) -> None:
    write(run, "a", 1, 2, 3)
    for step in (2, 3):
        damage(at(run, step), "model-0", "flip")
    found = run.newest_intact()
    assert found == at(run, 1)
    # Goes on from step 1, with checkpoints at other steps than before.
    retention = Retention(1)
    write(run, "half", 1, retention=retention)
    assert run.newest_intact() == at(run, 1)
    write(run, "b", 2, retention=retention)
    assert run.steps() == [2, 3]
    assert run.newest_intact() == at(run, 2)
    write(run, "c", 3, 4, retention=retention)
    assert run.steps() == [4]
