"""F2SRGAN's second phase: looks, by a relativistic discriminator and the features of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from srmodels.checks import check_not_negative
from srmodels.f2srgan.network import F2SRGAN
from srmodels.metrics.lpips import LPIPS
from srmodels.stage import ParameterGroup, Stage
from srmodels.stages.adversarial import DiscriminatorTurn, JudgedStage


class PerceptualStage(JudgedStage):
    """Trains the generator, after the pixel stage, until the image looks right.

    Loss: `adversarial_weight` · softplus(D(x_h) − D(x)), what a relativistic discriminator says
    (Jolicoeur-Martineau, arXiv 1807.00734; pair by pair, so that no sample's loss depends on
    another's, a reconstruction); `features_weight` times the mean squared difference of the last
    features of VGG16 (F2SRGAN takes VGG19's); `tv_weight` times the total variation; and
    `l1_weight` · L1. The weights are those of the released code, which has no L1.

    The discriminator has a turn of its own. It minimises softplus(D(x) − D(x_h)).

    Raises:
        ValueError: impossible options, or no `networks.discriminator`.
    """

    @dataclass
    class Options:
        adversarial_weight: float = 0.6
        features_weight: float = 1.0
        tv_weight: float = 2e-8
        l1_weight: float = 0.0

    network: F2SRGAN
    options: Options

    def __init__(self, network: F2SRGAN, options: Options) -> None:
        super().__init__(network, options)
        for name, value in vars(options).items():
            check_not_negative(name, value)
        if network.discriminator is None:
            raise ValueError(
                "this stage needs a discriminator: set networks.discriminator, for example to "
                "{channels: 64}."
            )
        self.features = LPIPS("vgg")

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("generator", list(self.network.generator.parameters()))]

    def pretrained_names(self) -> Sequence[str]:
        return self.features.pretrained_names

    def load_pretrained(self) -> None:
        self.features.load()

    def turns(self) -> Mapping[str, Stage]:
        return {"generator": self, "discriminator": DiscriminatorTurn(self)}

    def result(self, x_l: Tensor, seeds: Tensor) -> Tensor:
        x: Tensor = self.network.generator(x_l)
        return x

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        options, x, judge = self.options, self.result(x_l, seeds), self.discriminator
        assert judge is not None
        with torch.no_grad():
            wanted, real = self.features.last_features(x_h), judge(x_h)
        losses = {
            "adversarial": F.softplus(real - judge(x)).mean(),
            "features": F.mse_loss(self.features.last_features(x), wanted),
            "tv": total_variation(x),
            "l1": F.l1_loss(x, x_h),
        }
        weighted = [getattr(options, f"{name}_weight") * value for name, value in losses.items()]
        return {"loss": torch.stack(weighted).sum()} | losses


def total_variation(x: Tensor) -> Tensor:
    """Returns the mean of the squared differences of neighbours, down and right, a scalar.

    Args:
        x: images `[B, 3, H, W]`.
    """
    return x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()
