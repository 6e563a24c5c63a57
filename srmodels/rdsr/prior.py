"""The latent prior: the encoders that read one from images, and the process that makes one."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.rdsr.config import PriorEncoderConfig

#: β at the first and the last timestep (DiffIR, Xia et al., arXiv 2303.09472, Sec. 4.1).
_FIRST_BETA, _LAST_BETA = 0.1, 0.99
_SLOPE = 0.1


class PriorEncoder(nn.Module):
    """Images, side by side at one resolution, → a vector of `prior_channels` numbers.

    The shape is DiffIR's: a convolution, residual blocks, three convolutions that widen, the mean
    over all places, and two linear layers.

    Args:
        in_channels: of all images together, as `unshuffled` gives them.
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
        """`[B, prior_channels]` of images `[B, Cᵢ, h, w]`."""
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

    DiffIR's, but for its width: a linear layer on [c, t, x_t], then `num_layers` more.
    """

    def __init__(self, prior_channels: int, num_timesteps: int, num_layers: int = 1) -> None:
        super().__init__()
        self.num_timesteps = num_timesteps
        layers: list[nn.Module] = [nn.Linear(2 * prior_channels + 1, prior_channels)]
        for _ in range(num_layers):
            layers += [nn.LeakyReLU(_SLOPE), nn.Linear(prior_channels, prior_channels)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(_SLOPE))

    def forward(self, noisy: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """`[B, C]` of a noisy prior `[B, C]` at a timestep from 0 to T − 1 and a condition
        `[B, C]`."""
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
        kept = np.cumprod(1 - betas)
        before = np.append(1.0, kept[:-1])
        # The mean of q(x_{t−1} | x_t, x_0) (Ho et al., arXiv 2006.11239, Eq. 7).
        self.of_clean = (betas * np.sqrt(before) / (1 - kept)).tolist()
        self.of_noisy = (np.sqrt(1 - betas) * (1 - before) / (1 - kept)).tolist()
        self.last = float(np.sqrt(kept[-1])), float(np.sqrt(1 - kept[-1]))

    def diffuse(self, prior: Tensor, noise: Tensor) -> Tensor:
        """x_T, where the reverse process starts in training; noise is standard normal."""
        signal, spread = self.last
        return signal * prior + spread * noise

    def reverse(self, denoiser: Denoiser, start: Tensor, condition: Tensor) -> Tensor:
        """The clean prior `[B, C]`, by one call of the denoiser per timestep."""
        x = start
        for t in reversed(range(self.num_timesteps)):
            x = self.of_clean[t] * denoiser(x, t, condition) + self.of_noisy[t] * x
        return x
