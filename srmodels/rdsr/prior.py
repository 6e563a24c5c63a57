"""The latent prior: the encoders that read one from images, and the process that makes one."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.rdsr.config import PriorEncoderConfig

#: β at the first and the last timestep (DiffIR, Xia et al., arXiv 2303.09472, Sec. 4.1).
_FIRST_BETA, _LAST_BETA = 0.1, 0.99
_SLOPE = 0.1


class PriorEncoder(nn.Module):
    """Latent prior encoder (LPE): images, side by side at one resolution, → a vector of
    `prior_channels` numbers.

    The shape is DiffIR's, but for what `PriorEncoderConfig` says: a convolution, residual blocks,
    three convolutions that widen, the mean over all places, and two linear layers.

    Args:
        in_channels: channels of all images together, after their pixels are unshuffled.
    """

    def __init__(self, config: PriorEncoderConfig, in_channels: int, prior_channels: int) -> None:
        super().__init__()
        width = config.channels
        self.head = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(config.num_blocks)))
        self.widen = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(2 * width, prior_channels, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
        )
        self.mlp = nn.Sequential(
            nn.Linear(prior_channels, prior_channels),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(prior_channels, prior_channels),
            nn.LeakyReLU(_SLOPE),
        )

    def forward(self, *images: Tensor) -> Tensor:
        """Returns `[B, prior_channels]` numbers of images `[B, Cᵢ, h, w]`."""
        x = F.leaky_relu(self.head(torch.cat(images, dim=1)), _SLOPE)
        prior: Tensor = self.mlp(self.widen(self.blocks(x)).mean(dim=(2, 3)))
        return prior


class _Block(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(F.relu(self.first(x)))
        return y


class Denoiser(nn.Module):
    """A guess of the clean prior from a noisy one, the timestep and the condition.

    Two linear layers on [c, t / T, x_t], as DiffIR has them, which divides t by 10 T.
    """

    def __init__(self, prior_channels: int, num_timesteps: int) -> None:
        super().__init__()
        self.num_timesteps = num_timesteps
        self.layers = nn.Sequential(
            nn.Linear(2 * prior_channels + 1, prior_channels),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(prior_channels, prior_channels),
            nn.LeakyReLU(_SLOPE),
        )

    def forward(self, noisy: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """Returns the clean prior `[B, C]` of a noisy prior `[B, C]` at a timestep from 0 to T − 1
        and a condition `[B, C]`."""
        t = noisy.new_full((len(noisy), 1), timestep / self.num_timesteps)
        clean: Tensor = self.layers(torch.cat([condition, t, noisy], dim=1))
        return clean


class PriorDiffusion:
    """The process on priors: q(x_t | x_0) = N(√ᾱ_t · x_0, 1 − ᾱ_t), and back by x_0-prediction.

    β is squared linear between the square roots of .1 and .99; a single one is the last. On the way
    back no noise is added, and gradients flow through all timesteps (DiffIR, Eqs. 6 to 10).
    """

    def __init__(self, num_timesteps: int) -> None:
        self.num_timesteps = num_timesteps
        betas = np.linspace(_LAST_BETA**0.5, _FIRST_BETA**0.5, num_timesteps)[::-1] ** 2
        alphas_cumprod = np.cumprod(1 - betas)
        alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
        # The mean of q(x_{t−1} | x_t, x_0) (Ho et al., arXiv 2006.11239, Eq. 7): of x_0, of x_t.
        of_clean = betas * np.sqrt(alphas_cumprod_prev) / (1 - alphas_cumprod)
        of_noisy = np.sqrt(1 - betas) * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)
        self.posterior_mean_coef1: list[float] = of_clean.tolist()
        self.posterior_mean_coef2: list[float] = of_noisy.tolist()
        self.last_alpha_cumprod = float(alphas_cumprod[-1])

    def q_sample(self, prior: Tensor, noise: Tensor) -> Tensor:
        """Returns x_T `[B, C]`, where the reverse process starts in training; noise is standard
        normal."""
        kept = self.last_alpha_cumprod
        return math.sqrt(kept) * prior + math.sqrt(1 - kept) * noise

    def reverse(self, denoiser: Denoiser, start: Tensor, condition: Tensor) -> Tensor:
        """Returns the clean prior `[B, C]`, by one call of the denoiser per timestep."""
        x = start
        for t in reversed(range(self.num_timesteps)):
            clean = denoiser(x, t, condition)
            x = self.posterior_mean_coef1[t] * clean + self.posterior_mean_coef2[t] * x
        return x
