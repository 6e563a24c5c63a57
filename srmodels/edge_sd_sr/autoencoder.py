"""The three convolutional networks around the UNet: HR encoder, LR encoder, decoder.

Shapes and parameter names follow TAESD (tiny autoencoder of Stable Diffusion), which is what the
paper's budget leaves room for. Encoder and decoder have one level per resolution from the latent
(1/8 of HR) upwards; with fewer than four levels the rest of the way is a pixel (un)shuffle, which
trains faster and costs less.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.edge_sd_sr.config import DecoderConfig, HREncoderConfig, LREncoderConfig
from srmodels.layers import ResBlock

#: HR pixels per latent element along one side, as in Stable Diffusion's VAE.
LATENT_STRIDE = 8


class HREncoder(nn.Module):
    """Image-like `[B, 3, H, W]`, about unit range → latent `[B, latent_channels, H/8, W/8]`."""

    def __init__(self, config: HREncoderConfig, latent_channels: int) -> None:
        super().__init__()
        self.factor = LATENT_STRIDE // 2 ** (len(config.channels) - 1)
        previous = config.channels[0]
        layers: list[nn.Module] = [nn.Conv2d(3 * self.factor**2, previous, 3, padding=1)]
        last = len(config.channels) - 1
        for level, (channels, num_blocks) in enumerate(
            zip(config.channels, config.num_blocks, strict=True)
        ):
            if level > 0:
                layers.append(nn.Conv2d(previous, channels, 3, stride=2, padding=1, bias=False))
            pooled = config.pooled and level == last
            layers.extend(ResBlock(channels, channels, pooled=pooled) for _ in range(num_blocks))
            previous = channels
        layers.append(nn.Conv2d(previous, latent_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        _kaiming(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(F.pixel_unshuffle(x, self.factor))
        return z


class LREncoder(nn.Module):
    """LR image `[B, 3, h, w]` in [0, 1] → mean and log-variance, each at the latent's resolution.

    The image is unshuffled from LR to latent resolution (a factor of 8 / scale), then read by
    residual blocks.
    """

    def __init__(self, config: LREncoderConfig, latent_channels: int, scale: int) -> None:
        super().__init__()
        factor = LATENT_STRIDE // scale
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(factor),
            nn.Conv2d(3 * factor**2, config.channels, 3, padding=1),
            *(ResBlock(config.channels, config.channels) for _ in range(config.num_blocks)),
            nn.Conv2d(config.channels, 2 * latent_channels, 3, padding=1),
        )
        _kaiming(self.layers)

    def forward(self, x_l: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(x_l * 2 - 1).chunk(2, dim=1)
        return mean, log_variance.clamp(-10.0, 10.0)


class Decoder(nn.Module):
    """Latent `[B, latent_channels, h, w]` → image-like `[B, 3, 8h, 8w]`, about unit range.

    With `lr_skip` the first layer of the level at the LR image's resolution gets a convolution of
    that image added to its result.
    """

    def __init__(self, config: DecoderConfig, latent_channels: int, scale: int) -> None:
        super().__init__()
        self.factor = LATENT_STRIDE // 2 ** (len(config.channels) - 1)
        previous = config.channels[0]
        layers: list[nn.Module] = [
            nn.Conv2d(latent_channels, previous, 3, padding=1),
            nn.ReLU(),
        ]
        self.skip_before: int | None = None
        for level, (channels, num_blocks) in enumerate(
            zip(config.channels, config.num_blocks, strict=True)
        ):
            if level > 0:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
                layers.append(nn.Conv2d(previous, channels, 3, padding=1, bias=False))
            if config.lr_skip and 2**level * scale == LATENT_STRIDE:
                self.skip_before = len(layers)
                self.lr_skip = nn.Conv2d(3, channels, 3, padding=1)
            pooled = config.pooled and level == 0
            layers.extend(ResBlock(channels, channels, pooled=pooled) for _ in range(num_blocks))
            previous = channels
        out = nn.Conv2d(previous, 3 * self.factor**2, 3, padding=1)
        self.layers = nn.Sequential(*layers, out)
        _kaiming(self.layers)
        # Start close to zero output: a large wrong one drives the ReLUs before it to death.
        nn.init.normal_(out.weight, std=0.002)

    def forward(self, z: Tensor, x_l: Tensor) -> Tensor:
        # Soft clamp as in TAESD: keeps outliers of the latent from saturating the first layer.
        y = torch.tanh(z / 3) * 3
        if self.skip_before is None:
            y = self.layers(y)
        else:
            y = self.layers[: self.skip_before](y) + self.lr_skip(x_l * 2 - 1)
            y = self.layers[self.skip_before :](y)
        return F.pixel_shuffle(y, self.factor)


def _kaiming(layers: nn.Sequential) -> None:
    """Initialises the convolutions between the residual blocks by He's method.

    The residual blocks have an initialisation of their own.
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
