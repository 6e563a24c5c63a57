"""The depthwise separable convolution."""

from typing import Literal

from torch import nn

Padding = Literal["zeros", "reflect"]


class SeparableConv(nn.Sequential):
    """A 3x3 convolution of each channel, then a 1x1 convolution; the size stays.

    Maps `[B, in_channels, h, w]` to `[B, out_channels, h, w]`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, padding_mode: Padding = "zeros"
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                in_channels,
                3,
                padding=1,
                groups=in_channels,
                padding_mode=padding_mode,
            ),
            nn.Conv2d(in_channels, out_channels, 1),
        )
