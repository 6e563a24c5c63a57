"""Stable Diffusion's own encoder, as the frozen HR encoder; diffusers builds it."""

from torch import Tensor, nn

from srmodels.edge_sd_sr.config import HREncoderConfig

#: Stable Diffusion 1 and 2 multiply latents by it, so that they have about unit variance.
SCALING_FACTOR = 0.18215


class StableDiffusionEncoder(nn.Module):
    """Image `[B, 3, H, W]` in [0, 1] → the mean of its latent, scaled, `[B, C, H/8, W/8]`.

    Parameters are called as in diffusers' `AutoencoderKL` (Rombach et al., arXiv 2112.10752).
    """

    def __init__(self, config: HREncoderConfig, latent_channels: int) -> None:
        # Here, since it takes seconds and only recipes with this encoder need it.
        from diffusers.models.autoencoders.vae import Encoder

        super().__init__()
        levels = len(config.channels)
        self.encoder = Encoder(
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            block_out_channels=tuple(config.channels),
            layers_per_block=config.num_blocks[0],
            norm_num_groups=config.num_groups,
        )
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, _ = self.quant_conv(self.encoder(x * 2 - 1)).chunk(2, dim=1)
        z: Tensor = SCALING_FACTOR * mean
        return z
