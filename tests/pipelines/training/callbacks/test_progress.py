import math

import pytest
import torch

from pipelines.training.callbacks.progress import ProgressCallback
from tests.support.training import CPU, result


def test_the_last_line_tells_loss_rate_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    callback = ProgressCallback("joint", 0, 2, 8, CPU)
    callback.after_step(result(1, loss=0.5))
    callback.after_step(result(2, loss=0.5))
    callback.close()
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "joint 100%" in last
    assert "loss 0.5000, " in last
    assert " samples/s, " in last
    assert last.endswith(" GiB")


def test_a_skipped_step_does_not_spoil_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    callback = ProgressCallback("joint", 0, 3, 8, CPU)
    callback.after_step(result(1, loss=math.nan, applied=False))
    callback.after_step(result(2, loss=0.5))
    callback.after_step(result(3, loss=math.nan, applied=False))
    callback.close()
    assert "loss 0.5000" in capsys.readouterr().out.strip().splitlines()[-1]


def test_the_loss_is_read_only_when_the_bar_is_drawn() -> None:
    """On the meta device there is nothing to read: whoever tries fails."""
    callback = ProgressCallback("joint", 0, 10, 8, CPU)
    callback.bar.mininterval = math.inf
    step = result(1, loss=0.5)
    step.losses["loss"] = torch.empty((), device="meta")
    callback.after_step(step)
    callback.bar.mininterval = 0.0
    with pytest.raises(RuntimeError, match="meta"):
        callback.after_step(step)
    callback.close()
