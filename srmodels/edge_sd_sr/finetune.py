"""Stage 2 of Edge-SD-SR: the decoder, and the discriminator that judges it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srmodels.edge_sd_sr.autoencoder import LATENT_STRIDE
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.randomness import per_sample_normal
from srmodels.stage import ParameterGroup
from srmodels.stages.perceptual import PerceptualStage


class DecoderStage(PerceptualStage):
    """Finetunes the decoder on the frozen UNet's one-step output, where its input really lives.

    The paper names no losses. `grid_weight` is for `grid_error`.

    Raises:
        ValueError: impossible options, or an adversarial loss without `networks.discriminator`.
    """

    @dataclass
    class Options(PerceptualStage.Options):
        grid_weight: float = 0.0

    network: EdgeSDSR
    options: Options
    turn_name = "decoder"

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("decoder", list(self.network.decoder.parameters()))]

    def result(self, x_l: Tensor, seeds: Tensor) -> Tensor:
        """Returns the image `[B, 3, scale·h, scale·w]` that one step of the UNet leads to, from
        each sample's own noise."""
        network = self.network
        height, width = (side // network.lr_factor for side in x_l.shape[2:])
        noise = per_sample_normal(seeds, (network.config.latent_channels, height, width))
        with torch.no_grad():
            z_h = network.one_step_latent(x_l, noise)
        return network.decode(z_h, x_l)

    def more_losses(self, x: Tensor, x_h: Tensor) -> dict[str, tuple[float, Tensor]]:
        weight = self.options.grid_weight
        return {"grid": (weight, grid_error(x - x_h))} if weight else {}


def grid_error(error: Tensor) -> Tensor:
    """Returns the mean square of what an error `[B, 3, H, W]` repeats from block to block, a
    scalar.

    The decoder makes blocks of 8 x 8 px; the error at each of their places is averaged over 4 x 4
    blocks first, which leaves of one that does not repeat a sixteenth. LPIPS alone rewards a
    faint pattern on what is flat. Not the paper's.
    """
    places = F.pixel_unshuffle(error, LATENT_STRIDE)
    return F.avg_pool2d(places, min(4, *places.shape[2:])).square().mean()
