"""One turn of a step under DeepSpeed against the same step in plain PyTorch."""

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from pipelines.config.schema import GroupConfig, TrainConfig
from srmodels.network import SRNetwork
from srmodels.stage import ParameterGroup, Stage
from tests.support.training import CPU, join, prepare_deepspeed

if TYPE_CHECKING:
    from pipelines.training.turn import MicroBatch, Turn

SAMPLES = 5
RATE, DECAY = 0.1, 0.2


class OneConvolution(SRNetwork):
    """A network that keeps the size of its input."""

    scale, size_multiple = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.conv(x_l)
        return x

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"conv": self.conv}


class Squares(Stage):
    """A stage with the mean squared error as its loss, and two parameter groups."""

    network: OneConvolution

    def parameter_groups(self) -> list[ParameterGroup]:
        conv = self.network.conv
        assert conv.bias is not None
        return [ParameterGroup("weights", [conv.weight]), ParameterGroup("biases", [conv.bias])]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        error = (self.network(x_l) - x_h).square().mean()
        return {"loss": error, "half": error / 2}


def settings(zero_stage: int, clip: float) -> TrainConfig:
    return TrainConfig(
        batch_size=SAMPLES, learning_rate=RATE, warmup_steps=0, schedule="constant",
        gradient_clip=clip, zero_stage=zero_stage,
        groups={"weights": GroupConfig(weight_decay=DECAY), "biases": GroupConfig(start_step=1)},
    )  # fmt: skip


def make_turn(zero_stage: int, clip: float) -> "tuple[Turn, Squares]":
    """A turn for two micro-batches, and a copy of its stage for plain PyTorch."""
    join()
    prepare_deepspeed(CPU)
    from pipelines.training.turn import Turn

    torch.manual_seed(0)
    stage, plain = Squares(OneConvolution(), None), Squares(OneConvolution(), None)
    plain.load_state_dict(stage.state_dict())
    train = settings(zero_stage, clip)
    return Turn(stage, train, CPU, num_micro_batches=2, universal=False), plain


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x_l, x_h = (torch.rand(SAMPLES, 3, 4, 4, generator=generator) for _ in range(2))
    return x_l, x_h, torch.arange(SAMPLES)


def split(x_l: Tensor, x_h: Tensor, seeds: Tensor) -> "list[MicroBatch]":
    """Three samples and two, each weighed by its share of them all."""
    from pipelines.training.turn import MicroBatch

    pieces = zip(*(tensor.split(3) for tensor in (x_l, x_h, seeds)), strict=True)
    return [MicroBatch(lr, hr, own, len(own) * 2 / SAMPLES) for lr, hr, own in pieces]


def plain_optimizer(plain: Squares) -> torch.optim.Optimizer:
    weights, biases = (list(group.parameters) for group in plain.parameter_groups())
    return torch.optim.AdamW(
        [{"params": weights, "weight_decay": DECAY}, {"params": biases, "weight_decay": 0.0}],
        lr=RATE,
    )


def plain_step(plain: Squares, optimizer: torch.optim.Optimizer, step: int, clip: float) -> float:
    """One step on the whole batch; returns the gradient norm before clipping."""
    optimizer.param_groups[1]["lr"] = RATE * (step >= 1)
    optimizer.zero_grad()
    plain(*batch(step))["loss"].backward()
    norm = clip_grad_norm_(plain.parameters(), clip)
    optimizer.step()
    return float(norm)


def weights(stage: Stage) -> list[Tensor]:
    return [weight.detach().clone() for weight in stage.network.state_dict().values()]


@pytest.mark.parametrize("zero_stage", [0, 2])
@pytest.mark.parametrize("clip", [0.05, 1e9])
def test_a_step_is_that_of_plain_pytorch(zero_stage: int, clip: float) -> None:
    """The step has micro-batches of two sizes, groups of two rates, weight decay and clipping."""
    turn, plain = make_turn(zero_stage, clip)
    optimizer = plain_optimizer(plain)
    for step in range(3):
        with torch.no_grad():
            expected = plain(*batch(step))
        norm = plain_step(plain, optimizer, step, clip)
        losses, applied = turn.step(split(*batch(step)), step)
        assert applied
        assert turn.gradient_norm == pytest.approx(norm, rel=1e-5)
        assert norm > 0.05, "no gradient of this test is clipped"
        assert {name: value.item() for name, value in losses.items()} == pytest.approx(
            {name: value.item() for name, value in expected.items()}
        )
        assert turn.learning_rates == {"weights": RATE, "biases": RATE * (step >= 1)}
        for ours, theirs in zip(weights(turn.stage), weights(plain), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("zero_stage", [0, 2])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_takes_no_step(zero_stage: int, value: float) -> None:
    turn, plain = make_turn(zero_stage, 1.0)
    optimizer = plain_optimizer(plain)
    before = weights(turn.stage)
    x_l, x_h, seeds = batch(0)
    x_h[0, 0, 0, 0] = value
    _, applied = turn.step(split(x_l, x_h, seeds), 0)
    assert not applied
    assert all(map(torch.equal, before, weights(turn.stage)))
    # Nothing of it is left in the gradients or in the optimizer.
    _, applied = turn.step(split(*batch(1)), 1)
    assert applied
    plain_step(plain, optimizer, 1, 1.0)
    for ours, theirs in zip(weights(turn.stage), weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
