"""The patch discriminator, and the hinge losses it is trained with."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class DiscriminatorConfig:
    """Patch discriminator of a perceptual stage: used in training only."""

    channels: int = 64
    num_levels: int = 3

    def build(self) -> "PatchDiscriminator":
        return PatchDiscriminator(self.channels, self.num_levels)


class PatchDiscriminator(nn.Module):
    """Image `[B, 3, H, W]` in [0, 1] → a score for each of its patches, `[B, 1, ~H/2ⁿ, ~W/2ⁿ]`.

    The PatchGAN of pix2pix (Isola et al., arXiv 1611.07004); with three levels a patch is 70 px
    wide. Instance norm in batch norm's place: a sample's score must not depend on the others.
    """

    def __init__(self, channels: int = 64, num_levels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        width = channels
        for level in range(1, num_levels + 1):
            previous, width = width, min(channels * 2**level, 8 * channels)
            stride = 2 if level < num_levels else 1
            layers += [
                nn.Conv2d(previous, width, 4, stride=stride, padding=1, bias=False),
                nn.InstanceNorm2d(width, affine=True),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x * 2 - 1)
        # Autocast makes them bfloat16, and losses that are means of them would have three digits.
        return scores.float()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Returns half the mean of relu(1 − real) and relu(1 + fake), a scalar, of scores of any one
    shape (Lim and Ye, arXiv 1705.02894)."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Returns what the generator minimises, a scalar: minus the mean of scores of any shape."""
    return -fake.mean()
