"""Keeps the averaged weights up to date."""

from pipelines.training.ema import EMA
from pipelines.training.loop import StepResult


class EMACallback:
    """Keeps the average of the weights."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def after_step(self, result: StepResult) -> None:
        self.ema.update()

    def close(self) -> None:
        pass
