"""The forward process: where a latent stands at timestep t, and which t are worth training."""

import torch
from torch import Tensor


class Schedule:
    """Stable Diffusion's scaled-linear schedule: z_t = alpha_t · z + sigma_t · n.

    `alpha[t]² + sigma[t]² = 1`; t counts from 0 to `num_timesteps − 1`.
    Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models".
    """

    def __init__(self, num_timesteps: int) -> None:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, num_timesteps, dtype=torch.float64) ** 2
        signal = torch.cumprod(1.0 - betas, dim=0)
        self.num_timesteps = num_timesteps
        self.alpha = signal.sqrt().float()
        self.sigma = (1.0 - signal).sqrt().float()

    def diffuse(self, z: Tensor, end: Tensor, timesteps: Tensor) -> Tensor:
        """z_t of latents `z` `[B, C, h, w]` on their way to `end` (same shape) at timesteps `[B]`.

        `end` is pure noise in ordinary diffusion and the noised LR latent with forward
        conditioning.
        """
        alpha = self.alpha.to(z.device)[timesteps].view(-1, 1, 1, 1).to(z.dtype)
        sigma = self.sigma.to(z.device)[timesteps].view(-1, 1, 1, 1).to(z.dtype)
        return alpha * z + sigma * end


def sample_timesteps(uniform: Tensor, num_timesteps: int, power: float) -> Tensor:
    """Timesteps `[B]` from uniform numbers `[B]` in [0, 1), drawn towards the last one.

    t = ⌊T · (1 − u^power)⌋: `power` 1 is uniform, larger favours late timesteps, where one-step
    inference starts. A reconstruction: the paper speaks of a dedicated schedule without giving it.
    """
    position = 1.0 - uniform.double() ** power
    return (position * num_timesteps).long().clamp(max=num_timesteps - 1)
