"""The plain residual block of tiny autoencoders: three convolutions and a shortcut, no norm."""

import torch
from torch import Tensor, nn


class ResBlock(nn.Module):
    """`relu(conv(relu(conv(relu(conv(x))))) + shortcut(x))`, as in TAESD (O. Boer Bohan, MIT).

    Free of normalisation, so that every mobile runtime fuses it into three convolutions.
    Maps `[B, in_channels, H, W]` to `[B, out_channels, H, W]`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )
        self.activation = nn.ReLU()
        # Without a norm, a stack of blocks only starts stable if each is close to its shortcut.
        for layer, gain in ((self.body[0], 1.0), (self.body[2], 1.0), (self.body[4], 0.3)):
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            with torch.no_grad():
                layer.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y
