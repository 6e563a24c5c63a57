"""Callbacks of one concern each: EMA, checkpoints, progress, metrics."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from pipelines.progress import progress
from pipelines.schema import TrainConfig
from pipelines.training import checkpoint as ckpt
from pipelines.training.ema import EMA
from pipelines.training.engine import Engine
from pipelines.training.loop import StepResult

if TYPE_CHECKING:
    from mlflow import MlflowClient


class EMACallback:
    """Keeps the average of the weights."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def after_step(self, result: StepResult) -> None:
        self.ema.update()

    def close(self) -> None:
        pass


class CheckpointCallback:
    """Writes a checkpoint every so many steps and at the end, and removes old ones."""

    def __init__(
        self,
        run: Path,
        engine: Engine,
        ema: EMA,
        train: TrainConfig,
        make_state: Callable[[int], ckpt.RunState],
    ) -> None:
        self.run, self.engine, self.ema, self.train = run, engine, ema, train
        self.make_state = make_state

    def after_step(self, result: StepResult) -> None:
        last = result.step == self.train.steps
        if not last and result.step % self.train.checkpoint_every:
            return
        target = ckpt.directory_for(self.run, result.step)
        if dist.get_rank() == 0:
            ckpt.discard(target)
        dist.barrier()
        self.engine.save(target)
        if dist.get_rank() == 0:
            state = self.make_state(result.step)
            ckpt.write_weights(target, self.engine.weights(), self.ema.state_dict(), state)
        dist.barrier()
        if dist.get_rank() == 0:
            ckpt.mark_complete(target)
            ckpt.prune(self.run, self.train.keep_checkpoints)

    def close(self) -> None:
        pass


class ProgressCallback:
    """A bar with loss, rate and time left; for rank 0 alone."""

    def __init__(self, label: str, first_step: int, steps: int, batch_size: int) -> None:
        self.stack = ExitStack()
        self.bar = self.stack.enter_context(
            progress(label, total=steps, unit="step", initial=first_step)
        )
        self.batch_size = batch_size
        self.smooth: float | None = None

    def after_step(self, result: StepResult) -> None:
        loss = float(result.losses["loss"])
        self.smooth = loss if self.smooth is None else 0.95 * self.smooth + 0.05 * loss
        rate = self.batch_size / result.step_seconds
        self.bar.set_postfix_str(f"loss {self.smooth:.4f}, {rate:.0f} samples/s", refresh=False)
        self.bar.update()

    def close(self) -> None:
        self.stack.close()


class MetricsCallback:
    """Means over `every` steps to MLflow, averaged over ranks; rank 0 does the sending."""

    def __init__(
        self,
        client: "MlflowClient | None",
        run_id: str,
        engine: Engine,
        *,
        every: int,
        batch_size: int,
        steps: int,
    ) -> None:
        self.client, self.run_id, self.engine = client, run_id, engine
        self.every, self.batch_size, self.steps = every, batch_size, steps
        self.results: list[StepResult] = []
        #: What was measured last, for the driver.
        self.last: dict[str, float] = {}

    def after_step(self, result: StepResult) -> None:
        self.results.append(result)
        if result.step % self.every and result.step != self.steps:
            return
        names = sorted(result.losses)
        means = torch.stack(
            [torch.stack([r.losses[name].float() for r in self.results]).mean() for name in names]
        )
        dist.all_reduce(means)
        means = means / dist.get_world_size()
        seconds = sum(r.step_seconds for r in self.results)
        waited = sum(r.data_seconds for r in self.results)
        values = {f"train/{name}": float(mean) for name, mean in zip(names, means, strict=True)}
        values |= {f"learning_rate/{k}": v for k, v in self.engine.learning_rates.items()}
        values["train/gradient_norm"] = self.engine.gradient_norm
        values["speed/samples_per_second"] = self.batch_size * len(self.results) / seconds
        values["speed/data_wait_share"] = waited / seconds
        self.results, self.last = [], values
        if self.client is not None:
            self._send(values, result.step)

    def _send(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        assert self.client is not None
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self) -> None:
        pass
