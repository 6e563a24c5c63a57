import pytest
import torch
from torch import nn

from pipelines.training.ema import EMA


def test_after_one_half_life_the_average_is_half_way() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(dict(module.named_parameters()), half_life=10)
    nn.init.ones_(module.weight)
    for _ in range(10):
        ema.update()
    assert ema.average["weight"].item() == pytest.approx(0.5)


def test_bf16_is_averaged_in_fp32() -> None:
    module = nn.Linear(2, 2).bfloat16()
    ema = EMA(dict(module.named_parameters()), half_life=5)
    ema.update()
    assert set(ema.average) == {"weight", "bias"}
    assert all(value.dtype == torch.float32 for value in ema.average.values())


def test_the_averaged_weights_are_applied_and_taken_back_even_after_a_failure() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).bfloat16())
    ema = EMA(dict(module.named_parameters()), half_life=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))
    ema.update()
    live = {name: p.detach().clone() for name, p in module.named_parameters()}
    places = [p.data_ptr() for p in module.parameters()]
    averages = {name: value.clone() for name, value in ema.average.items()}

    def look() -> None:
        with ema.applied():
            for name, parameter in module.named_parameters():
                assert torch.equal(parameter, averages[name].to(parameter.dtype))
                assert not torch.equal(parameter, live[name])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        look()
    assert all(torch.equal(p, live[name]) for name, p in module.named_parameters())
    # Optimizers and DeepSpeed hold views of the very memory.
    assert places == [p.data_ptr() for p in module.parameters()]
    assert all(torch.equal(ema.average[name], value) for name, value in averages.items())
