import json
from pathlib import Path

import pytest
import torch

from pipelines.training.callbacks.profiler import ProfilerCallback
from tests.support.training import CPU, recorded_in, recorder_in, result


def profile(folder: Path, first: int, count: int, *, start: int, stop: int) -> list[str]:
    """Steps `start + 1` to `stop` of one matrix product each, profiled; returns the files."""
    callback = ProfilerCallback(
        first,
        count,
        folder=folder / "profile",
        recorder=recorder_in(folder),
        start_step=start,
        device=CPU,
    )
    for step in range(start + 1, stop + 1):
        with torch.profiler.record_function(f"step {step}"):
            torch.rand(64, 64) @ torch.rand(64, 64)
        callback.after_step(result(step, loss=0.0))
    callback.close()
    return [file for _, file in recorded_in(folder, "file")]


@pytest.mark.parametrize(
    ("first", "count", "start", "stop", "profiled"),
    [
        (2, 2, 0, 6, [3, 4]),
        (0, 1, 0, 3, [1]),
        (4, 9, 0, 6, [5, 6]),  # the run ends before
        (2, 3, 3, 6, [4, 5]),  # a resumed run has passed the first step
    ],
)
def test_the_trace_holds_these_steps_and_the_table_their_operators(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: int,
    count: int,
    start: int,
    stop: int,
    profiled: list[int],
) -> None:
    files = profile(tmp_path, first, count, start=start, stop=stop)
    name = f"trace-{profiled[0]:06d}-{profiled[-1]:06d}"
    assert files == [f"profile/{name}.json", f"profile/{name}.txt"]
    trace, table = (tmp_path / file for file in files)
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    for step in range(1, 10):
        assert (f"step {step}" in names) == (step in profiled)
    assert "aten::mm" in names
    assert "aten::mm" in table.read_text()
    assert str(trace) in capsys.readouterr().out


@pytest.mark.parametrize(("first", "start"), [(9, 0), (1, 4)])
def test_steps_that_are_not_run_leave_no_trace(tmp_path: Path, first: int, start: int) -> None:
    assert profile(tmp_path, first, 2, start=start, stop=6) == []
    assert list(tmp_path.iterdir()) == []
