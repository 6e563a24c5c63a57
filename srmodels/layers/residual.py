"""The plain residual block of tiny autoencoders: three convolutions and a shortcut."""

import torch
from torch import Tensor, nn


class ResBlock(nn.Module):
    """`relu(conv(x) + skip(x))`, `conv` being three of them, as in TAESD (O. Boer Bohan, MIT).

    Free of normalisation, so that every mobile runtime fuses it into three convolutions.
    Maps `[B, in_channels, H, W]` to `[B, out_channels, H, W]`. Parameters are called as TAESD and
    diffusers' `AutoencoderTiny` call them, whose weights load as they are.

    Args:
        pooled: x + pool(x) takes the place of x, where `pool` normalises over all of H and W, as
            at the coarsest level of TAEF2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.pool = _pool(in_channels) if pooled else None
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip: nn.Module = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )
        self.fuse = nn.ReLU()
        # Without a norm, a stack of blocks only starts stable if each is close to its shortcut.
        for layer, gain in ((self.conv[0], 1.0), (self.conv[2], 1.0), (self.conv[4], 0.3)):
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            with torch.no_grad():
                layer.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        y: Tensor = self.fuse(self.conv(x) + self.skip(x))
        return y


def _pool(channels: int) -> nn.Sequential:
    wide = 4 * channels
    return nn.Sequential(
        nn.Conv2d(channels, wide, 1, bias=False),
        nn.GroupNorm(4, wide),
        nn.ReLU(),
        nn.Conv2d(wide, channels, 1, bias=False),
    )
