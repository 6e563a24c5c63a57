import os
import signal

import pytest

from pipelines.training.callbacks.preemption import PreemptionCallback
from pipelines.training.local import join_group
from pipelines.training.loop import StepResult, StopTraining
from pipelines.training.preemption import Notice, on_sigterm


def test_a_node_that_will_go_is_saved_from_once_and_training_goes_on() -> None:
    join_group(cuda=False)
    saved: list[int] = []
    told = Notice.NONE
    callback = PreemptionCallback(lambda: told, saved.append)
    callback.after_step(StepResult(1, {}, [], 0.0, 0.1))
    assert saved == []
    told = Notice.PREEMPTION
    for step in (2, 3):
        callback.after_step(StepResult(step, {}, [], 0.0, 0.1))
    assert saved == [2]


def test_sigterm_saves_and_stops() -> None:
    join_group(cuda=False)
    saved: list[int] = []
    with on_sigterm() as asked:
        callback = PreemptionCallback(lambda: Notice.STOP if asked() else Notice.NONE, saved.append)
        callback.after_step(StepResult(6, {}, [], 0.0, 0.1))
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopTraining):
            callback.after_step(StepResult(7, {}, [], 0.0, 0.1))
    assert saved == [7]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
