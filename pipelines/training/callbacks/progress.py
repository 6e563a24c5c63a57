"""Shows a progress bar with loss, speed and memory."""

from contextlib import ExitStack
from time import perf_counter

import torch
from torch import Tensor

from pipelines.progress import progress
from pipelines.training.hardware import memory_gib
from pipelines.training.loop import StepResult

#: Weight of the newest step in the shown averages.
NEWEST = 0.05


class ProgressCallback:
    """A bar with loss, rate, memory and time left. Only rank 0 has this callback.

    The rate counts all the time between two steps, callbacks included. The loss stays on its device
    until the bar is drawn, since reading waits for the GPU.
    """

    def __init__(
        self, label: str, first_step: int, steps: int, batch_size: int, device: torch.device
    ) -> None:
        self.steps, self.batch_size, self.device = steps, batch_size, device
        self.stack = ExitStack()
        self.bar = self.stack.enter_context(
            progress(label, total=steps, unit="step", initial=first_step)
        )
        self.loss: Tensor | None = None
        self.seconds: float | None = None
        self.before: float | None = None
        self.drawn = 0.0

    def after_step(self, result: StepResult) -> None:
        now = perf_counter()
        seconds = result.step_seconds if self.before is None else now - self.before
        old = seconds if self.seconds is None else self.seconds
        self.before, self.seconds = now, old + NEWEST * (seconds - old)
        if result.applied:
            loss = result.losses["loss"].detach()
            self.loss = loss.clone() if self.loss is None else self.loss.lerp(loss, NEWEST)
        if now - self.drawn >= self.bar.mininterval or result.step == self.steps:
            self.drawn = now
            self.bar.set_postfix_str(self._told(), refresh=False)
        self.bar.update()

    def _told(self) -> str:
        assert self.seconds is not None
        loss = "-" if self.loss is None else f"{float(self.loss):.4f}"
        rate = self.batch_size / self.seconds
        return f"loss {loss}, {rate:.0f} samples/s, {memory_gib(self.device):.1f} GiB"

    def close(self) -> None:
        self.stack.close()
