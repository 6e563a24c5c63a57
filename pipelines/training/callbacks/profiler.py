"""Traces a few steps with torch.profiler, to show where the time goes."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipelines.training.loop import StepResult
from pipelines.training.recorder import Recorder

ROWS = 20


class ProfilerCallback:
    """Profiles rank 0 for a few steps. Only rank 0 has this callback.

    It writes `trace-<first>-<last>.json` for chrome://tracing or Perfetto, and the most expensive
    operators into `trace-<first>-<last>.txt`. Profiled steps are slower and take more memory.

    Args:
        first_step: number of steps that are done before the first profiled one.
        num_steps: number of profiled steps; fewer where the run starts later or ends sooner.
        start_step: number of steps that are done when this process starts.
    """

    def __init__(
        self,
        first_step: int,
        num_steps: int,
        *,
        folder: Path,
        recorder: Recorder,
        start_step: int,
        device: torch.device,
    ) -> None:
        self.first, self.end = max(first_step, start_step), first_step + num_steps
        self.folder, self.recorder, self.device = folder, recorder, device
        self.profiler: profile | None = None
        self.step = start_step
        self._start()

    def after_step(self, result: StepResult) -> None:
        self.step = result.step
        if self.profiler is None:
            self._start()
        elif self.step == self.end:
            self._finish()

    def _start(self) -> None:
        if self.step != self.first or self.first >= self.end:
            return
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(activities=activities)
        self.profiler.start()

    def _finish(self) -> None:
        assert self.profiler is not None
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        if self.step == self.first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / f"trace-{self.first + 1:06d}-{self.step:06d}.json"
        profiler.export_chrome_trace(str(trace))
        order = f"self_{self.device.type}_time_total"
        table = trace.with_suffix(".txt")
        table.write_text(profiler.key_averages().table(sort_by=order, row_limit=ROWS))
        for path in (trace, table):
            self.recorder.file(path, "profile")
        print(f"Profiled steps {self.first + 1} to {self.step}: {trace}, {table}", flush=True)

    def close(self) -> None:
        if self.profiler is not None:
            self._finish()
