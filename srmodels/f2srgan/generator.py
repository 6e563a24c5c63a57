"""F2SRGAN's generator: residual blocks of separable and of fast Fourier convolutions."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.fourier import FastFourierConv
from srmodels.f2srgan.separable import SeparableConv


class SeparableBlock(nn.Module):
    """x + 0.1 · f(x), with f a convolution, PReLU and a separable convolution."""

    def __init__(self, first: nn.Module, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(first, nn.PReLU(channels), SeparableConv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + 0.1 * self.layers(x)
        return y


class SeparableGenerator(nn.Module):
    """LR image `[B, 3, h, w]` → `[B, 3, scale·h, scale·w]`, about [0, 1]: F2SRGAN's generator.

    Its sizes are those of the released weights: 202,209 parameters with 16 blocks of 64 channels,
    every other one with a fast Fourier convolution; 113,121 with 8 blocks without.
    """

    def __init__(self, config: F2SRGANConfig) -> None:
        super().__init__()
        width, self.scale, self.enlarged = config.channels, config.scale, config.enlarged
        self.head = SeparableConv(3, width)
        self.body = nn.Sequential()
        for number in range(config.num_blocks):
            fourier = config.trunk == "fourier" and number % 2 == 0
            first = FastFourierConv(width) if fourier else SeparableConv(width, width)
            self.body.append(SeparableBlock(first, width))
        self.upsampler = nn.Sequential()
        for _ in range(int(math.log2(config.scale))):
            steps = SeparableConv(width, 4 * width), nn.PixelShuffle(2), nn.PReLU(width)
            self.upsampler.extend(nn.ModuleList(steps))
        self.tail = SeparableConv(width, 3)

    def forward(self, x_l: Tensor) -> Tensor:
        x = self.head(x_l)
        x = self.tail(self.upsampler(x + self.body(x)))
        if self.enlarged:
            x = x + F.interpolate(
                x_l, scale_factor=self.scale, mode="bilinear", align_corners=False
            )
        y: Tensor = x
        return y
