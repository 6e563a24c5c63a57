"""A stack of plain convolutions: what phones compute fastest."""

import torch
from torch import Tensor, nn

from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.layers import ReparameterisedConv, make_conv

_COLOURS = 3


class PlainGenerator(nn.Module):
    """LR image `[B, 3, h, w]` → `[B, 3, scale·h, scale·w]`, about [0, 1].

    3x3 convolutions and ReLU at the LR resolution, and one pixel shuffle. Nothing is added: at the
    start, three channels carry x_l through all convolutions, and the last one repeats each of its
    pixels. So the network begins as an enlargement, and the sum that others add to their result is
    a part of the convolutions (in the spirit of ABPN, arXiv 2105.09750, and ETDS, CVPR 2023).
    """

    def __init__(self, config: F2SRGANConfig) -> None:
        super().__init__()
        width = config.channels
        self.layers = nn.ModuleList()
        previous = _COLOURS
        for _ in range(config.num_blocks):
            conv = make_conv(config.conv, previous, width)
            _carry(conv)
            self.layers.append(conv)
            previous = width
        self.tail = make_conv(config.conv, width, _COLOURS * config.scale**2, identity=False)
        _repeat(self.tail, config.scale)
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, x_l: Tensor) -> Tensor:
        x = x_l
        for conv in self.layers:
            x = conv(x).relu()
        y: Tensor = self.shuffle(self.tail(x))
        return y


@torch.no_grad()
def _carry(conv: nn.Module) -> None:
    """Lets the first three channels of the result be those of x; the others stay random."""
    weight, bias = _kernel(conv)
    weight[:_COLOURS], bias[:_COLOURS] = 0, 0
    for colour in range(_COLOURS):
        weight[colour, colour, 1, 1] = 1
    _become(conv, weight, bias)


@torch.no_grad()
def _repeat(conv: nn.Module, scale: int) -> None:
    """Lets the shuffled result be x's first three channels, each pixel repeated `scale` times along
    both sides; what the other channels say begins small."""
    weight, bias = _kernel(conv)
    weight *= 0.1
    bias *= 0
    weight[:, :_COLOURS] = 0
    for place in range(len(weight)):
        weight[place, place // scale**2, 1, 1] = 1
    _become(conv, weight, bias)


def _kernel(conv: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(conv, ReparameterisedConv):
        weight, bias = conv.kernel()
        return weight.clone(), bias.clone()
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.weight.clone(), conv.bias.clone()


def _become(conv: nn.Module, weight: Tensor, bias: Tensor) -> None:
    if isinstance(conv, ReparameterisedConv):
        conv.become(weight, bias)
        return
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
