import pytest
import torch
from torch import nn

from pipelines.training.ema import EMA


def test_after_one_half_life_the_average_is_half_way() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(module, half_life=10)
    nn.init.ones_(module.weight)
    for _ in range(10):
        ema.update()
    assert ema.average["weight"].item() == pytest.approx(0.5)


def test_frozen_parameters_are_left_out_and_bf16_is_averaged_in_fp32() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    module[0].requires_grad_(False)
    ema = EMA(module, half_life=5)
    ema.update()
    assert set(ema.average) == {"1.weight", "1.bias"}
    assert all(value.dtype == torch.float32 for value in ema.average.values())
