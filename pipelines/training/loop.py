"""The training loop. It knows an engine, a stream and callbacks; nothing of Ray or MLflow."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from torch import Tensor

from pipelines.data.stream import Batch
from pipelines.training.engine import Engine


@dataclass(frozen=True)
class StepResult:
    """What callbacks see after a step. `step` counts the steps done; times in seconds.

    losses: this rank's part; their mean over the ranks is that over the step's samples.
    keys: of this rank's samples.
    applied: False where the step was skipped, on all ranks, for a gradient that was not finite.
    """

    step: int
    losses: dict[str, Tensor]
    keys: list[str]
    data_seconds: float
    step_seconds: float
    applied: bool = True


class StopTraining(Exception):  # noqa: N818  (a request, not an error)
    """Raised by a callback, on every rank after the same step: the run ends here, in good order."""


class Callback(Protocol):
    """One concern of a training run. Every rank calls every callback."""

    def after_step(self, result: StepResult) -> None: ...

    def close(self) -> None: ...


def train(
    engine: Engine,
    stream: Iterable[Batch],
    callbacks: Sequence[Callback],
    *,
    first_step: int,
    steps: int,
) -> None:
    """Steps the engine from `first_step` to `steps`, or until a callback raises StopTraining;
    callbacks are closed whatever happens."""
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
