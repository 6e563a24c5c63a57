"""The forward process of latents, the kinds of a UNet's prediction, and the draw of timesteps."""

import math

import torch
from torch import Tensor

from srmodels.transfer import to_device

#: The meanings that the UNet's output may have, see `Prediction`.
PREDICTIONS = ("residual", "z_h", "v", "epsilon")
#: ResShift's own numbers: √η at the last timestep, and κ·√η at the first.
_LAST_SHARE, _FIRST_NOISE = 0.999**0.5, 0.04


class ForwardProcess:
    """z_t = signal_t · z_h + end_t · z_l + noise_t · n, with n the noise `[B, C, h, w]`.

    Thus z_t is distributed as N(signal_t · z_h + end_t · z_l, noise_t² · Var n) given both latents.
    The tables `signal`, `end` and `noise` are `[T]` in fp32; t counts from 0 to T − 1.
    """

    def __init__(self, signal: Tensor, end: Tensor, noise: Tensor) -> None:
        self.signal, self.end, self.noise = signal.float(), end.float(), noise.float()
        self.num_timesteps = len(signal)
        #: The last values of `signal`, `end` and `noise`.
        self.last = float(signal[-1]), float(end[-1]), float(noise[-1])

    @classmethod
    def towards_noise(cls, num_timesteps: int, zero_terminal_snr: bool = False) -> "ForwardProcess":
        """Returns ordinary diffusion, which ends at noise and never uses z_l.

        signal_t = α_t and noise_t = σ_t of Stable Diffusion's scaled-linear schedule, α² + σ² = 1
        (Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models").

        Args:
            zero_terminal_snr: shift and scale α so that its last value is 0 and its first stays
                (Lin et al., arXiv 2305.08891, algorithm 1). Stable Diffusion's last α is 0.068.
        """
        alpha, sigma = _scaled_linear(num_timesteps, zero_terminal_snr)
        return cls(alpha, torch.zeros_like(sigma), sigma)

    @classmethod
    def towards_latent(
        cls, num_timesteps: int, zero_terminal_snr: bool = False
    ) -> "ForwardProcess":
        """Returns diffusion to the noised LR latent: z_t = α_t z_h + σ_t (z_l + n).

        α and σ are those of `towards_noise`. With Stable Diffusion's last α of 0.068 and a small n,
        z_h can still be read in z_T; with `zero_terminal_snr` it cannot.

        It reconstructs Edge-SD-SR's forward conditioning: the text of the paper (arXiv 2412.06978)
        was not at hand.
        """
        alpha, sigma = _scaled_linear(num_timesteps, zero_terminal_snr)
        return cls(alpha, sigma, sigma)

    @classmethod
    def residual_shift(
        cls, num_timesteps: int, kappa: float, power: float, zero_terminal_snr: bool = False
    ) -> "ForwardProcess":
        """Returns ResShift's process: z_t = (1 − η_t) z_h + η_t z_l + κ √η_t n.

        See Yue et al., arXiv 2307.12348.

        √η_t rises geometrically from 0.04 / κ (at most 0.04), a step that hardly shows, to √0.999;
        with a `power` below 1 most of the way lies in the first steps.

        Args:
            zero_terminal_snr: √η_t rises to 1, so that nothing of z_h is left in z_T.
        """
        last = 1.0 if zero_terminal_snr else _LAST_SHARE
        first = min(_FIRST_NOISE / kappa, 0.04)
        steps = max(num_timesteps - 1, 1)
        times = torch.arange(num_timesteps, dtype=torch.float64, device="cpu")
        position = (times / steps) ** power
        root = first * torch.exp(position * math.log(last / first))
        eta = root**2
        return cls(1.0 - eta, eta, kappa * root)

    def diffuse(self, z_h: Tensor, z_l: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns z_t `[B, C, h, w]` of latents at timesteps `[B]`."""
        signal, end, scale = self.at(timesteps)
        return signal * z_h + end * z_l + scale * noise

    def start(self, z_l: Tensor, noise: Tensor | None) -> Tensor:
        """Returns the start of inference `[B, C, h, w]`: z_T with z_l in the place of z_h.

        z_l is the first guess of z_h, so this is the mean of what training saw at the last
        timestep. Without `noise` it is that mean alone.
        """
        signal, end, scale = self.last
        mean = (signal + end) * z_l
        return mean if noise is None else mean + scale * noise

    def at(self, timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns signal, end and noise `[B, 1, 1, 1]` at timesteps `[B]`."""
        tables = (self.signal, self.end, self.noise)
        signal, end, noise = (
            to_device(table, timesteps.device)[timesteps].view(-1, 1, 1, 1) for table in tables
        )
        return signal, end, noise


class Prediction:
    """The meaning of the UNet's output, and the ẑ_h that follows from it.

    kind: `z_h` itself; `residual`, z_h − z_l, since z_l is a first guess of z_h already (a
        reconstruction in the spirit of ResShift); `epsilon`, the noise n (Ho et al., arXiv
        2006.11239); `v`, signal · (end of the process) − noise · z_h (Salimans and Ho, arXiv
        2202.00512), for processes with signal² + noise² = 1.
    """

    def __init__(self, kind: str, process: ForwardProcess) -> None:
        assert kind in PREDICTIONS
        self.kind, self.process = kind, process

    def target(self, z_h: Tensor, z_l: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the right output of the UNet, `[B, C, h, w]`."""
        if self.kind == "z_h":
            return z_h
        if self.kind == "residual":
            return z_h - z_l
        if self.kind == "epsilon":
            return noise
        signal, end, scale = self.process.at(timesteps)
        return signal * (end / scale * z_l + noise) - scale * z_h

    def z_h(self, output: Tensor, z_t: Tensor, z_l: Tensor, timesteps: Tensor) -> Tensor:
        """Returns ẑ_h `[B, C, h, w]` from an output of the UNet."""
        if self.kind == "z_h":
            return output
        if self.kind == "residual":
            return z_l + output
        signal, end, scale = self.process.at(timesteps)
        if self.kind == "epsilon":
            return (z_t - end * z_l - scale * output) / signal
        return signal * z_t - scale * output


def _scaled_linear(num_timesteps: int, zero_terminal_snr: bool) -> tuple[Tensor, Tensor]:
    # On the CPU, so that it has values in networks that are built on the meta device.
    roots = (0.00085**0.5, 0.012**0.5)
    betas = torch.linspace(*roots, num_timesteps, dtype=torch.float64, device="cpu") ** 2
    signal = torch.cumprod(1.0 - betas, dim=0).sqrt()
    if zero_terminal_snr:
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return signal, (1.0 - signal**2).sqrt()


def sample_timesteps(uniform: Tensor, num_timesteps: int, power: float) -> Tensor:
    """Returns timesteps `[B]` from uniform numbers `[B]` in [0, 1), drawn towards the last one.

    t = ⌊T · (1 − u^power)⌋: `power` 1 is uniform, larger favours late timesteps, where one-step
    inference starts. A reconstruction: the paper speaks of a dedicated schedule without giving it.
    """
    position = 1.0 - uniform.double() ** power
    return (position * num_timesteps).long().clamp(max=num_timesteps - 1)
