"""Updates the averaged weights after every step."""

from pipelines.training.ema import EMA
from pipelines.training.loop import StepResult


class EMACallback:
    """Updates the average of the weights after every step."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def after_step(self, result: StepResult) -> None:
        self.ema.update()

    def close(self) -> None:
        pass
