"""Checkpoints that cannot be written for a while, or ever."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.runs.checkpoint import Checkpoints, RunState
from pipelines.storage.retries import RetryPolicy
from pipelines.training.callbacks.checkpointing import PAUSE_S, CheckpointCallback
from pipelines.training.ema import EMA
from tests.support.checkpoints import at, open_run, open_writer
from tests.support.clock import TurnedClock
from tests.support.training import configure, join, make_engine, result

STEPS = 4
BUDGET_S = 60.0
STATE = RunState(STEPS, 16, 1, 0, 0, "digest", {}, {}, None, {}, "autoencoder", {})


class ClockWithTask(TurnedClock):
    """It does something at the end of a pause."""

    def __init__(self, task: Callable[[], object], pause: int) -> None:
        super().__init__()
        self.task, self.pause = task, pause

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.now() == self.pause * PAUSE_S:
            self.task()


@pytest.fixture(scope="module")
def engine(dataset: Path) -> Any:
    join()
    return make_engine(configure(dataset))


@pytest.fixture
def run(tmp_path: Path) -> Checkpoints:
    return open_run(tmp_path / "run", tmp_path)


@pytest.fixture
def obstacle(tmp_path: Path) -> Path:
    """A file in the place of the last checkpoint's folder."""
    path = tmp_path / "run" / f"step-{STEPS:06d}-a"
    path.parent.mkdir()
    path.touch()
    return path


def callback(run: Checkpoints, engine: Any, clock: TurnedClock) -> CheckpointCallback:
    policy = RetryPolicy(budget_s=BUDGET_S, clock=clock)
    train = (
        configure(Path(), f"train.steps={STEPS}", "train.checkpoint_every=2")
        .stages["autoencoder"]
        .train
    )
    ema = EMA(engine.averaged, 20.0)
    writer = open_writer(run, "a")
    return CheckpointCallback(writer, engine, ema, train, lambda step: STATE, policy=policy)


def test_the_last_checkpoint_is_tried_again_until_the_budget_is_spent(
    run: Checkpoints, engine: Any, obstacle: Path
) -> None:
    clock = TurnedClock()
    told = rf"the checkpoint of step 4 cannot be written: .*/{obstacle.name}"
    with pytest.raises(UserError, match=told):
        callback(run, engine, clock).after_step(result(STEPS))
    assert BUDGET_S < clock.now() <= BUDGET_S + PAUSE_S


def test_the_last_checkpoint_is_written_once_it_can_be(
    run: Checkpoints, engine: Any, obstacle: Path
) -> None:
    clock = ClockWithTask(obstacle.unlink, pause=2)
    callback(run, engine, clock).after_step(result(STEPS))
    assert at(run, STEPS).state() == STATE
    assert clock.now() == 2 * PAUSE_S


def test_a_checkpoint_before_the_last_is_given_up_with_a_warning(
    run: Checkpoints, engine: Any, obstacle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    early = obstacle.rename(obstacle.with_name("step-000002-a"))
    saving = callback(run, engine, clock := ClockWithTask(early.unlink, pause=1))
    saving.after_step(result(2))
    assert clock.now() == 0
    saving.after_step(result(STEPS))
    assert clock.now() == PAUSE_S
    assert early.name in capsys.readouterr().out
    assert run.steps() == [STEPS]
