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
    """What callbacks see after a step. `step` counts the steps done; times in seconds."""

    step: int
    losses: dict[str, Tensor]
    data_seconds: float
    step_seconds: float


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
    """Steps the engine from `first_step` to `steps`; callbacks are closed whatever happens."""
    batches: Iterator[Batch] = iter(stream)
    try:
        for step in range(first_step, steps):
            start = perf_counter()
            batch = next(batches)
            loaded = perf_counter()
            losses = engine.step(batch)
            done = perf_counter()
            result = StepResult(step + 1, losses, loaded - start, done - start)
            for callback in callbacks:
                callback.after_step(result)
    finally:
        for callback in callbacks:
            callback.close()
        if hasattr(batches, "close"):
            batches.close()
