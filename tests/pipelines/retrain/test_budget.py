"""A budget ends a training at a checkpoint, and a larger one lets it go on."""

import threading
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.config.retrain import RetrainConfig
from pipelines.errors import BudgetSpentError
from pipelines.retrain import chain, follow, work
from pipelines.retrain.budget import Budget
from pipelines.retrain.history import Cost
from pipelines.runs.names import run_checkpoints
from tests.support.clock import TurnedClock
from tests.support.retraining import TAUGHT
from tests.systems.taught import WideStage

HOUR_S = 3600.0


def test_the_hours_of_gpus_and_cores_are_those_of_trainings() -> None:
    clock = TurnedClock()
    budget = Budget(RetrainConfig(), Cost(5, 5, 5), clock)
    clock.turn(HOUR_S)
    with budget.training(4, 16, lambda: pytest.fail("nothing limits it")):
        clock.turn(HOUR_S / 2)
        assert budget.cost == Cost(1.5, 2.0, 8.0)
    clock.turn(HOUR_S)
    with budget.training(0, 2, lambda: pytest.fail("nothing limits it")):
        clock.turn(HOUR_S)
    assert budget.cost == Cost(3.5, 2.0, 10.0)
    assert budget.spent is None
    budget.admit("small-joint")


@pytest.mark.parametrize(
    ("limits", "lasts", "told"),
    [
        (RetrainConfig(max_hours=3), 2.0, "retrain.max_hours=3 is spent (3 hours)"),
        (RetrainConfig(max_gpu_hours=7), 1.5, "retrain.max_gpu_hours=7 is spent (7 hours)"),
        (
            RetrainConfig(max_hours=3, max_gpu_hours=100),
            2.0,
            "retrain.max_hours=3 is spent (3 hours)",
        ),
    ],
)
def test_a_training_is_asked_to_stop_when_the_first_limit_is_reached(
    limits: RetrainConfig, lasts: float, told: str
) -> None:
    """Earlier starts have taken an hour on four GPUs, of which two trained for half of it."""
    clock, asked = TurnedClock(), threading.Event()
    budget = Budget(limits, Cost(1.0, 1.0, 0.0), clock)
    with budget.training(4, 4, asked.set):
        clock.turn(lasts * HOUR_S - 1)
        assert not asked.wait(0.2)
        assert budget.spent is None
        clock.turn(1)
        assert asked.wait(20)
    assert budget.spent == told
    with pytest.raises(BudgetSpentError, match=r"^retrain\.max_(gpu_)?hours=.*start it again with"):
        budget.admit("small-joint")


def test_gpus_that_nobody_holds_do_not_count() -> None:
    clock = TurnedClock()
    budget = Budget(RetrainConfig(max_gpu_hours=1), Cost(), clock)
    with budget.training(0, 8, lambda: pytest.fail("no GPU is held")):
        clock.turn(100 * HOUR_S)
    assert budget.spent is None


def test_a_training_stops_at_a_checkpoint_and_goes_on_with_a_larger_budget(
    dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is real, in this process; its time passes once it has begun."""
    steps, hours, clock = 60, 3.0, TurnedClock()
    config = load_config(
        [f"recipe={TAUGHT}", f"data={dataset}", f"train.steps={steps}", "stage2=[]",
         "train.checkpoint_every=100000", f"retrain.max_hours={hours}"]
    )  # fmt: skip
    stages = chain(config)[1:2]
    budget = Budget(config.retrain, Cost(), clock)
    forward = WideStage.forward

    def begun(stage: WideStage, *batch: Tensor) -> dict[str, Tensor]:
        # The plan of the stage computes with tensors that have no values.
        if type(batch[0]) is Tensor and not clock.now():
            clock.turn(hours * HOUR_S)
        return forward(stage, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(WideStage, "forward", begun)
        with pytest.raises(BudgetSpentError) as caught:
            follow(stages, partial(work._metered, budget))
    newest = run_checkpoints(config, "taught-wide").newest()
    assert newest is not None
    assert 0 < newest.step < steps
    assert str(caught.value) == (
        f"retrain.max_hours=3 is spent (3 hours), and taught-wide is saved at step {newest.step} "
        f"of {steps}: start it again with a larger budget to go on."
    )
    # Started again with the same budget, it trains no step more.
    with pytest.raises(BudgetSpentError, match="taught-wide was not trained any further"):
        follow(stages, partial(work._metered, Budget(config.retrain, budget.cost)))
    assert run_checkpoints(config, "taught-wide").steps() == [newest.step]
    capsys.readouterr()
    follow(stages, partial(work._metered, Budget(RetrainConfig(max_hours=4), budget.cost)))
    said = capsys.readouterr().out
    assert f"wide: resuming at step {newest.step} of {steps}" in said
    assert "Trained taught-wide: loss" in said
