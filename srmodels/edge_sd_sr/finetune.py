"""Stage 2 of Edge-SD-SR: the decoder, and the discriminator that judges it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srmodels.edge_sd_sr.autoencoder import LATENT_STRIDE
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.layers import hinge_discriminator_loss, hinge_generator_loss
from srmodels.metrics.lpips import BACKBONES, LPIPS
from srmodels.system import ParameterGroup, Stage, per_sample_normal


class DecoderStage(Stage):
    """Finetunes the decoder on the frozen UNet's one-step output, where its input really lives.

    Loss: L1 between the decoded one-step prediction and x_h, LPIPS, and from step
    `adversarial_start` on the hinge loss of a patch discriminator, which learns by turns from the
    beginning. The paper names no losses; this is the usual trio of latent diffusion's decoders
    (Rombach et al., arXiv 2112.10752), with fixed weights. `grid_weight` is for `grid_error`.

    Raises:
        ValueError: impossible options, or an adversarial loss without `networks.discriminator`.
    """

    @dataclass
    class Options:
        l1_weight: float = 1.0
        lpips_weight: float = 0.0
        lpips_backbone: str = "vgg"
        grid_weight: float = 0.0
        adversarial_weight: float = 0.0
        adversarial_start: int = 0

    network: EdgeSDSR
    options: Options

    def __init__(self, network: EdgeSDSR, options: Options) -> None:
        super().__init__(network, options)
        for name, value in vars(options).items():
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"{name} must be at least 0, not {value}.")
        if options.lpips_backbone not in BACKBONES:
            raise ValueError(
                f"lpips_backbone is '{options.lpips_backbone}': use {' or '.join(BACKBONES)}."
            )
        self.lpips = LPIPS(options.lpips_backbone) if options.lpips_weight else None
        if options.adversarial_weight and network.discriminator is None:
            raise ValueError(
                "adversarial_weight needs a discriminator: set networks.discriminator, for example "
                "to {channels: 64}, or adversarial_weight to 0."
            )

    def pretrained_names(self) -> Sequence[str]:
        return self.lpips.pretrained_names if self.lpips is not None else ()

    def load_pretrained(self) -> None:
        if self.lpips is not None:
            self.lpips.load()

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("decoder", list(self.network.decoder.parameters()))]

    def parts(self) -> Mapping[str, Stage]:
        if not self.options.adversarial_weight:
            return super().parts()
        return {"decoder": self, "discriminator": _DiscriminatorPart(self.network, self.options)}

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        network, options = self.network, self.options
        x = network.decode(_latent(network, x_l, seeds), x_l)
        l1 = F.l1_loss(x, x_h)
        losses = {"loss": options.l1_weight * l1, "l1": l1}
        if self.lpips is not None:
            losses["lpips"] = self.lpips(x, x_h).mean()
            losses["loss"] = losses["loss"] + options.lpips_weight * losses["lpips"]
        if options.grid_weight:
            losses["grid"] = grid_error(x - x_h)
            losses["loss"] = losses["loss"] + options.grid_weight * losses["grid"]
        if options.adversarial_weight:
            assert network.discriminator is not None
            losses["adversarial"] = hinge_generator_loss(network.discriminator(x))
            if self.step >= options.adversarial_start:
                weighted = options.adversarial_weight * losses["adversarial"]
                losses["loss"] = losses["loss"] + weighted
        return losses


def grid_error(error: Tensor) -> Tensor:
    """Mean square of what an error `[B, 3, H, W]` repeats from block to block, a scalar.

    The decoder makes blocks of 8 x 8 px; the error at each of their places is averaged over 4 x 4
    blocks first, which leaves of one that does not repeat a sixteenth. LPIPS alone rewards a
    faint pattern on what is flat. Not the paper's.
    """
    places = F.pixel_unshuffle(error, LATENT_STRIDE)
    return F.avg_pool2d(places, min(4, *places.shape[2:])).square().mean()


class _DiscriminatorPart(Stage):
    """Learns to tell x_h from what the decoder makes."""

    network: EdgeSDSR
    options: DecoderStage.Options

    def parameter_groups(self) -> list[ParameterGroup]:
        assert self.network.discriminator is not None
        return [ParameterGroup("discriminator", list(self.network.discriminator.parameters()))]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        network = self.network
        assert network.discriminator is not None
        with torch.no_grad():
            x = network.decode(_latent(network, x_l, seeds), x_l)
        real, fake = network.discriminator(x_h), network.discriminator(x)
        return {
            "loss": hinge_discriminator_loss(real, fake),
            "real": real.mean(),
            "fake": fake.mean(),
        }


@torch.no_grad()
def _latent(network: EdgeSDSR, x_l: Tensor, seeds: Tensor) -> Tensor:
    """ẑ_h of one step, from each sample's own noise."""
    height, width = (side // network.lr_factor for side in x_l.shape[2:])
    noise = per_sample_normal(seeds, (network.config.latent_channels, height, width))
    return network.one_step_latent(x_l, noise)
