"""Measures a run: losses, learning rates, speed and memory."""

from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.training.engine import Engine
from pipelines.training.hardware import memory_gib
from pipelines.training.loop import StepResult
from pipelines.training.recorder import Recorder


class MetricsCallback:
    """Records metrics every `every` steps and at the last step.

    A loss is the mean over the ranks, and over the steps since the last record that were not
    skipped. A speed counts all the time between two records. Values are read from the device only
    when they are recorded, since reading waits for the GPU.

    Args:
        recorder: None on every rank but rank 0.
        batch_size: samples of a step over all ranks.
        steps: number of the last step.
        skipped: number of steps that were skipped before the run was resumed.
        flops_per_sample: FLOPs of forward and backward, those that are repeated counted once; None:
            no MFU is recorded.
        peak_flops: peak FLOP/s of one rank's device; None: no MFU is recorded.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        engine: Engine,
        *,
        every: int,
        batch_size: int,
        steps: int,
        skipped: int = 0,
        flops_per_sample: float | None = None,
        peak_flops: float | None = None,
    ) -> None:
        self.recorder, self.engine = recorder, engine
        self.every, self.batch_size, self.steps = every, batch_size, steps
        self.flops_per_sample, self.peak_flops = flops_per_sample, peak_flops
        self.sums: Tensor | None = None
        self.applied = self.seen = 0
        self.waited = 0.0
        self.since: float | None = None
        #: The newest value of every metric, for the checkpoint and the driver.
        self.last: dict[str, float] = {"steps/skipped": skipped}

    def after_step(self, result: StepResult) -> None:
        if self.since is None:
            self.since = perf_counter() - result.step_seconds
        self.seen += 1
        self.waited += result.data_seconds
        if result.applied:
            losses = _stacked(result)
            self.sums = losses if self.sums is None else self.sums + losses
            self.applied += 1
        else:
            self.last["steps/skipped"] += 1
        if result.step % self.every == 0 or result.step == self.steps:
            self._record(result)

    def _record(self, result: StepResult) -> None:
        now = perf_counter()
        assert self.since is not None
        values = self._losses(result)
        values |= {f"learning_rate/{k}": v for k, v in self.engine.learning_rates.items()}
        if result.applied:
            for turn, norm in self.engine.gradient_norms.items():
                values["/".join(filter(None, ("train", turn, "gradient_norm")))] = norm
        values |= self._speed(now - self.since) | self._memory()
        self.since, self.waited = now, 0.0
        self.seen = self.applied = 0
        self.sums = None
        self.last |= values
        if self.recorder is not None:
            skipped = {"steps/skipped": self.last["steps/skipped"]}
            self.recorder.metrics(values | skipped, result.step)

    def _losses(self, result: StepResult) -> dict[str, float]:
        """Returns the means over ranks and applied steps; empty where no step was applied."""
        sums = torch.zeros_like(_stacked(result)) if self.sums is None else self.sums
        shared = torch.cat([sums, sums.new_tensor([self.applied])])
        dist.all_reduce(shared)
        *totals, count = shared.tolist()
        names = sorted(result.losses)
        return {f"train/{n}": v / count for n, v in zip(names, totals, strict=True) if count}

    def _speed(self, seconds: float) -> dict[str, float]:
        rate = self.batch_size * self.seen / seconds
        values = {
            "speed/samples_per_second": rate,
            "speed/data_wait_share": self.waited / seconds,
        }
        if self.flops_per_sample is not None and self.peak_flops is not None:
            available = self.peak_flops * dist.get_world_size()
            values["speed/mfu"] = rate * self.flops_per_sample / available
        return values

    def _memory(self) -> dict[str, float]:
        device = self.engine.device
        largest = torch.tensor(memory_gib(device), dtype=torch.float64, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        kind = "gpu_peak" if device.type == "cuda" else "resident"
        return {f"memory/{kind}_gib": largest.item()}

    def close(self) -> None:
        pass


def _stacked(result: StepResult) -> Tensor:
    """Returns the losses as one fp64 tensor `[num_losses]`, in the order of their names."""
    losses = result.losses
    return torch.stack([losses[name].detach().double() for name in sorted(losses)])
