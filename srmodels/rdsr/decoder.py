"""RepD: a stack of reparameterised convolutions and ReLU, modulated by the prior."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.layers import make_conv, start_near_identity
from srmodels.rdsr.config import DecoderConfig

#: About the size of the details beside the image: without it, a step of the tail's weights moves
#: the result by more than the details are.
_DETAILS = 0.1


class RepD(nn.Module):
    """LR image and prior → HR image.

    Everything happens at the LR resolution. The last convolution gives scale² pixels for each LR
    pixel, and these are added to the bilinearly enlarged x_l. The paper says no more than "a stack
    of 3x3 convolution and ReLU". So the sum and the modulation by the prior are reconstructions.

    Args:
        prior_channels: number of channels of the prior; 0 if there is none.
    """

    def __init__(self, config: DecoderConfig, scale: int, prior_channels: int) -> None:
        super().__init__()
        self.scale, width = scale, config.channels
        self.head = make_conv(config.conv, 3, width)
        self.body = nn.ModuleList(
            _Layer(config.conv, width, prior_channels if n % config.modulate_every == 0 else 0)
            for n in range(config.num_convs)
        )
        self.tail = make_conv(config.conv, width, 3 * scale**2, identity=False)

    def forward(self, x_l: Tensor, prior: Tensor | None) -> Tensor:
        """Returns images `[B, 3, scale·h, scale·w]`, about [0, 1].

        Args:
            x_l: LR images `[B, 3, h, w]`.
            prior: `[B, prior_channels]`.
        """
        x = F.relu(self.head(x_l - 0.5))
        for layer in self.body:
            x = layer(x, prior)
        details = F.pixel_shuffle(self.tail(x), self.scale)
        return torch.add(self._enlarge(x_l), details, alpha=_DETAILS)

    def _enlarge(self, x_l: Tensor) -> Tensor:
        size = [self.scale * side for side in x_l.shape[2:]]
        return F.interpolate(x_l, size, mode="bilinear", align_corners=False)


class _Layer(nn.Module):
    """relu((1 + γ) · conv(x) + β), with γ and β linear in the prior, per channel."""

    def __init__(self, kind: str, channels: int, prior_channels: int) -> None:
        super().__init__()
        self.conv = make_conv(kind, channels, channels)
        start_near_identity(self.conv)
        self.modulation = nn.Linear(prior_channels, 2 * channels) if prior_channels else None
        if self.modulation is not None:
            with torch.no_grad():
                self.modulation.weight.mul_(0.1)
                self.modulation.bias.zero_()

    def forward(self, x: Tensor, prior: Tensor | None) -> Tensor:
        x = self.conv(x)
        if self.modulation is not None:
            gain, shift = self.modulation(prior)[:, :, None, None].chunk(2, dim=1)
            x = torch.addcmul(x + shift, x, gain)
        return x.relu_()
