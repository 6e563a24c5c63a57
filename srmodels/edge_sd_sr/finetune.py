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
    """Finetunes the decoder on the latents that the frozen UNet predicts in one step.

    Inference gives the decoder such latents. The paper names no losses. `grid_weight` is the weight
    of `grid_error`.

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
        """Returns the images `[B, 3, scale·h, scale·w]` after one step of the UNet.

        Where inference starts with a noise, that of each sample is drawn from its own seed.
        """
        network, noise = self.network, None
        if network.config.conditioning.inference_noise:
            height, width = (side // network.lr_factor for side in x_l.shape[2:])
            shape = (network.config.latent_channels, height, width)
            noise = per_sample_normal(seeds, shape, device=x_l.device)
        with torch.no_grad():
            z_h = network.one_step_latent(x_l, noise)
        return network.decode(z_h, x_l)

    def more_losses(self, x: Tensor, x_h: Tensor) -> dict[str, tuple[float, Tensor]]:
        weight = self.options.grid_weight
        return {"grid": (weight, grid_error(x - x_h))} if weight else {}


def grid_error(error: Tensor) -> Tensor:
    """Returns the mean square of the error that repeats from block to block, a scalar.

    The decoder makes blocks of 8 x 8 px. The error at each place of a block is averaged over 4 x 4
    blocks before it is squared. An error that repeats stays as it is. The mean square of an error
    that does not repeat falls to a sixteenth. LPIPS alone rewards a faint pattern in flat areas.
    The paper has no such loss.

    Args:
        error: the difference of two images, `[B, 3, H, W]`.
    """
    places = F.pixel_unshuffle(error, LATENT_STRIDE)
    return F.avg_pool2d(places, min(4, *places.shape[2:])).square().mean()
