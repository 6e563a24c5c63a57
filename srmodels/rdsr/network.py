"""The whole RDSR: prior encoders, denoiser and decoder, and the inference through them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.network import INFERENCE_SEED, SRNetwork
from srmodels.rdsr.config import RDSRConfig
from srmodels.rdsr.decoder import RepD
from srmodels.rdsr.prior import Denoiser, PriorDiffusion, PriorEncoder


class RDSR(SRNetwork):
    """Super-resolution by a reparameterised decoder, steered by a diffused prior (PRCV 2024, doi
    10.1007/978-981-97-8685-5_7).

    c = E_LR(x_l); the reverse process makes the prior from noise and c in `num_timesteps` steps,
    and the decoder makes the image from x_l and the prior. The encoder that reads the HR image too
    is only there for training.
    """

    noise: Tensor

    def __init__(self, config: RDSRConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        steered = config.prior != "none"
        unshuffle, prior_channels = config.prior_encoder.unshuffle, config.prior_channels
        self.size_multiple = unshuffle if steered else 1
        lr_channels = 3 * unshuffle**2
        self.hr_encoder = (
            PriorEncoder(config.prior_encoder, lr_channels * (1 + self.scale**2), prior_channels)
            if steered
            else None
        )
        self.lr_encoder = (
            PriorEncoder(config.prior_encoder, lr_channels, prior_channels) if steered else None
        )
        self.denoiser = (
            Denoiser(prior_channels, config.num_timesteps) if config.prior == "diffused" else None
        )
        self.decoder = RepD(config.decoder, self.scale, prior_channels if steered else 0)
        self.discriminator = config.discriminator.build() if config.discriminator else None
        self.process = PriorDiffusion(config.num_timesteps)
        generator = torch.Generator().manual_seed(INFERENCE_SEED)
        noise = torch.randn(1, prior_channels, generator=generator, device="cpu")
        device = next(self.decoder.parameters()).device
        self.register_buffer("noise", noise.to(device), persistent=False)

    def inference_modules(self) -> dict[str, nn.Module]:
        """Returns the networks that ship; the encoder that reads HR images stays behind."""
        shipped = {
            "lr_encoder": self.lr_encoder,
            "denoiser": self.denoiser,
            "decoder": self.decoder,
        }
        return {name: module for name, module in shipped.items() if module is not None}

    def finetuning_modules(self) -> dict[str, nn.Module]:
        """Returns the encoder that teaches; none if the network has no prior."""
        return {} if self.hr_encoder is None else {"hr_encoder": self.hr_encoder}

    def oracle_prior(self, x_l: Tensor, x_h: Tensor) -> Tensor | None:
        """Returns the prior of the encoder that sees x_h too, `[B, prior_channels]`.

        Returns None if no prior steers the decoder.
        """
        if self.hr_encoder is None:
            return None
        unshuffle = self.config.prior_encoder.unshuffle
        prior: Tensor = self.hr_encoder(
            F.pixel_unshuffle(x_l, unshuffle), F.pixel_unshuffle(x_h, unshuffle * self.scale)
        )
        return prior

    def prior(self, x_l: Tensor, start: Tensor | None = None) -> Tensor | None:
        """Returns the prior that inference uses, `[B, prior_channels]`; None if there is none.

        Args:
            start: x_T of the reverse process `[B, prior_channels]`; by default its fixed noise.
        """
        if self.lr_encoder is None:
            return None
        condition: Tensor = self.lr_encoder(
            F.pixel_unshuffle(x_l, self.config.prior_encoder.unshuffle)
        )
        if self.denoiser is None:
            return condition
        if start is None:
            start = self.noise.expand(len(x_l), -1)
        return self.process.reverse(self.denoiser, start, condition)

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.decoder(x_l, self.prior(x_l))
        return x.clamp(0.0, 1.0)
