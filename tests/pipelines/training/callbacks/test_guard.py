import pytest
import torch

from pipelines.errors import UserError
from pipelines.training.callbacks.guard import NonFiniteGuard
from pipelines.training.local import join_group
from pipelines.training.loop import StepResult


def step(number: int, loss: float, *, applied: bool) -> StepResult:
    losses = {"loss": torch.tensor(loss)}
    return StepResult(number, losses, ["a-0001", "b-0002"], 0.0, 0.1, applied)


def test_skipped_steps_are_told_with_their_samples(capsys: pytest.CaptureFixture[str]) -> None:
    join_group(cuda=False)
    guard = NonFiniteGuard(budget=2)
    guard.after_step(step(1, 0.5, applied=True))
    assert capsys.readouterr().out == ""
    guard.after_step(step(2, float("nan"), applied=False))
    assert "step 2: the loss or its gradient is not finite on samples a-0001, b-0002: skipped" in (
        capsys.readouterr().out
    )


def test_the_budget_counts_what_was_skipped_before_the_run_was_resumed() -> None:
    join_group(cuda=False)
    guard = NonFiniteGuard(budget=2, skipped=1)
    guard.after_step(step(8, float("inf"), applied=False))
    with pytest.raises(UserError, match=r"step 9: .* samples a-0001, b-0002.*max_skipped_steps=2"):
        guard.after_step(step(9, 0.5, applied=False))
