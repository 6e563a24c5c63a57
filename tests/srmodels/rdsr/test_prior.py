"""The process on priors, against its definition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from srmodels.rdsr.config import PriorEncoderConfig
from srmodels.rdsr.prior import Denoiser, PriorDiffusion, PriorEncoder


def betas(steps: int) -> np.ndarray:
    return np.linspace(np.sqrt(0.1), np.sqrt(0.99), steps) ** 2


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_whoever_knows_the_prior_gets_it_back(steps: int) -> None:
    process, clean = PriorDiffusion(steps), torch.randn(3, 8)

    class Knows(Denoiser):
        def forward(self, noisy: Tensor, timestep: int, condition: Tensor) -> Tensor:
            return clean

    knows = Knows(8, steps)
    found = process.reverse(knows, torch.randn(3, 8), torch.zeros(3, 8))
    assert torch.allclose(found, clean, atol=1e-6)


def test_the_way_back_is_the_mean_of_the_posterior() -> None:
    """Ho et al., Eq. 7, one step at a time."""
    process, seen = PriorDiffusion(4), []

    class Half(Denoiser):
        def forward(self, noisy: Tensor, timestep: int, condition: Tensor) -> Tensor:
            seen.append(timestep)
            return 0.5 * noisy + condition

    x, condition = torch.randn(2, 8, dtype=torch.double), torch.randn(2, 8, dtype=torch.double)
    found = process.reverse(Half(8, 4), x, condition)
    beta = betas(4)
    bar = np.cumprod(1 - beta)
    for t in (3, 2, 1, 0):
        clean, before = 0.5 * x + condition, bar[t - 1] if t else 1.0
        x = (
            np.sqrt(before) * beta[t] * clean + np.sqrt(1 - beta[t]) * (1 - before) * x
        ) / (1 - bar[t])  # fmt: skip
    assert torch.allclose(found, x)
    assert seen == [3, 2, 1, 0]


def test_gradients_flow_through_all_timesteps() -> None:
    """The last one alone knows nothing of the start: its weight is 0."""
    torch.manual_seed(0)
    process, start = PriorDiffusion(4), torch.randn(1, 8, requires_grad=True)
    process.reverse(Denoiser(8, 4), start, torch.randn(1, 8)).sum().backward()
    assert start.grad is not None
    assert start.grad.abs().min() > 0


def test_training_starts_at_nearly_pure_noise() -> None:
    process = PriorDiffusion(4)
    prior, noise = torch.ones(1, 1), torch.ones(1, 1)
    signal = float(process.q_sample(prior, 0 * noise))
    assert abs(signal - np.sqrt(np.cumprod(1 - betas(4))[-1])) < 1e-6
    assert 0.04 < signal < 0.06
    assert abs(float(process.q_sample(0 * prior, noise)) ** 2 + signal**2 - 1) < 1e-6


def test_the_denoiser_looks_at_all_that_it_is_given() -> None:
    torch.manual_seed(0)
    denoiser, inputs = Denoiser(8, 4), [torch.randn(2, 8), torch.randn(2, 8)]
    base = denoiser(inputs[0], 1, inputs[1])
    assert base.shape == (2, 8)
    assert not torch.equal(base, denoiser(inputs[0] + 1, 1, inputs[1]))
    assert not torch.equal(base, denoiser(inputs[0], 2, inputs[1]))
    assert not torch.equal(base, denoiser(inputs[0], 1, inputs[1] + 1))


def test_an_encoder_gives_one_vector_for_images_of_any_size() -> None:
    encoder = PriorEncoder(PriorEncoderConfig(4, 1), 6, 16)
    for height, width in ((1, 1), (3, 5)):
        images = torch.rand(2, 2, height, width), torch.rand(2, 4, height, width)
        assert encoder(*images).shape == (2, 16)
