"""The training loop. It knows an engine, a stream and callbacks, but neither Ray nor MLflow."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from torch import Tensor

from pipelines.data.stream import Batch
from pipelines.training.engine import Engine


@dataclass(frozen=True)
class StepResult:
    """The result of a step, as callbacks see it.

    Attributes:
        step: number of steps that are done.
        losses: this rank's share; their mean over the ranks is the mean over the step's samples.
        keys: keys of this rank's samples.
        data_seconds: time that the step waited for its batch.
        step_seconds: time of the whole step, the wait included.
        applied: False where all ranks skipped the step, since a gradient was not finite.
    """

    step: int
    losses: dict[str, Tensor]
    keys: list[str]
    data_seconds: float
    step_seconds: float
    applied: bool = True


class StopTraining(Exception):  # noqa: N818  (a request, not an error)
    """A callback's request to end the run; raised on every rank after the same step."""


class Callback(Protocol):
    """One concern of a training run. Every rank calls it."""

    def after_step(self, result: StepResult) -> None:
        """Acts on a step that is done."""

    def close(self) -> None:
        """Ends the callback, after a failed run too."""


def train(
    engine: Engine,
    stream: Iterable[Batch],
    callbacks: Sequence[Callback],
    *,
    first_step: int,
    steps: int,
) -> None:
    """Steps the engine from `first_step` to `steps`, or until a callback raises StopTraining.

    It closes the callbacks at the end, after a failure too.
    """
    batches: Iterator[Batch] = iter(stream)
    try:
        for step in range(first_step, steps):
            start = perf_counter()
            batch = next(batches)
            loaded = perf_counter()
            outcome = engine.step(batch, step)
            result = StepResult(
                step=step + 1,
                losses=outcome.losses,
                keys=batch.keys,
                data_seconds=loaded - start,
                step_seconds=perf_counter() - start,
                applied=outcome.applied,
            )
            for callback in callbacks:
                callback.after_step(result)
    except StopTraining:
        pass
    finally:
        for callback in callbacks:
            callback.close()
        if hasattr(batches, "close"):
            batches.close()
