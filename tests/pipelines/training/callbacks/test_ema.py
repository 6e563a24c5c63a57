import torch

from pipelines.training.callbacks.ema import EMACallback
from pipelines.training.ema import EMA
from tests.support.training import result


def test_a_skipped_step_leaves_the_average() -> None:
    weight = torch.zeros(3)
    callback = EMACallback(EMA({"weight": weight}, half_life=1))
    weight += 8
    callback.after_step(result(1, applied=False, loss=0.0))
    assert callback.ema.average["weight"].tolist() == [0.0] * 3
    callback.after_step(result(2, loss=0.0))
    assert callback.ema.average["weight"].tolist() == [4.0] * 3
