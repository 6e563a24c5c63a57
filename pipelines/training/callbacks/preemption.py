"""Saves the run as soon as a rank has a notice that it may end."""

from collections.abc import Callable

import torch
import torch.distributed as dist

from pipelines.training.loop import StepResult, StopTraining
from pipelines.training.preemption import Notice


class PreemptionCallback:
    """Writes a checkpoint as soon as any rank has a notice, after the same step on all of them.

    Args:
        notice: returns the strongest notice to this rank so far, without waiting.
        save: writes a checkpoint of a step, and waits until it is complete.

    Raises:
        StopTraining: the notice was to stop, and the checkpoint is written.
    """

    def __init__(self, notice: Callable[[], Notice], save: Callable[[int], None]) -> None:
        self.notice, self.save = notice, save
        self.seen = Notice.NONE
        # Over main memory, also where the training uses GPUs: so no step waits for one.
        self.group = dist.new_group(backend="gloo")

    def after_step(self, result: StepResult) -> None:
        told = torch.tensor(int(self.notice()))
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group)
        agreed = Notice(int(told))
        if agreed > self.seen:
            self.seen = agreed
            if dist.get_rank() == 0:
                what = "asked to stop" if agreed is Notice.STOP else "a node will go"
                print(f"{what}: writing a checkpoint at step {result.step}.", flush=True)
            self.save(result.step)
        if agreed is Notice.STOP:
            raise StopTraining

    def close(self) -> None:
        pass
