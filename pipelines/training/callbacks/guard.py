"""Counts the steps that were skipped for a gradient that was not finite; ends a hopeless run."""

import torch
import torch.distributed as dist

from pipelines.errors import UserError, listing
from pipelines.training.loop import StepResult
from pipelines.training.ranks import gathered


class NonFiniteGuard:
    """Names the samples of a skipped step, and ends the run after too many of them.

    Args:
        budget: number of steps of the run that may be skipped.
        skipped: number of steps that were skipped before the run was resumed.

    Raises:
        UserError: the budget is spent; every rank raises it.
    """

    def __init__(self, budget: int, skipped: int = 0) -> None:
        self.budget, self.skipped = budget, skipped

    def after_step(self, result: StepResult) -> None:
        if result.applied:
            return
        self.skipped += 1
        samples = listing(_suspects(result))
        what = f"step {result.step}: the loss or its gradient is not finite on samples {samples}"
        if self.skipped > self.budget:
            raise UserError(
                f"{what}, and more than train.max_skipped_steps={self.budget} steps were skipped "
                "for this: lower train.learning_rate or look at these samples."
            )
        if dist.get_rank() == 0:
            print(f"{what}: skipped.", flush=True)

    def close(self) -> None:
        pass


def _suspects(result: StepResult) -> list[str]:
    """Returns the samples of the ranks whose loss was not finite.

    Where only the gradient was not finite, it returns the samples of all ranks. Every rank must
    call it.
    """
    finite = all(bool(torch.isfinite(value)) for value in result.losses.values())
    found = gathered((finite, result.keys))
    bad = [key for finite, keys in found if not finite for key in keys]
    return bad or [key for _, keys in found for key in keys]
