"""Updates the averaged weights after every step that was taken."""

from pipelines.training.ema import EMA
from pipelines.training.loop import StepResult


class EMACallback:
    """Updates the average of the weights after every step that all turns took.

    A skipped step changed no weight. It would only draw the average towards the present weights.
    """

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def after_step(self, result: StepResult) -> None:
        if result.applied:
            self.ema.update()

    def close(self) -> None:
        pass
