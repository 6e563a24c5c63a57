"""The base of systems' perceptual stages: L1, LPIPS, and a discriminator with a turn of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.checks import check_not_negative, shortened
from srmodels.layers import (
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from srmodels.metrics.lpips import BACKBONES, LPIPS, pretrained_names
from srmodels.network import SRNetwork
from srmodels.stage import Stage
from srmodels.stages.adversarial import DiscriminatorTurn, JudgedStage


class PerceptualStage(JudgedStage):
    """Finetunes what makes the image until it looks right, not only on average.

    Loss: L1 between the result and x_h, LPIPS of one backbone or the mean of both, and from step
    `adversarial_start` on the hinge loss of a patch discriminator, which has a turn of its own from
    the first step on: the usual trio of latent diffusion's decoders (Rombach et al., arXiv
    2112.10752), with fixed weights.

    Raises:
        ValueError: impossible options, or an adversarial loss without `networks.discriminator`.
    """

    @dataclass
    class Options:
        l1_weight: float = 1.0
        lpips_weight: float = 0.0
        lpips_backbone: str = "vgg"
        adversarial_weight: float = 0.0
        adversarial_start: int = 0

    #: Name of the turn that learns the image, beside `discriminator`.
    turn_name: str

    def __init__(self, network: SRNetwork, options: Any) -> None:
        super().__init__(network, options)
        for name, value in vars(options).items():
            if not isinstance(value, str):
                check_not_negative(name, value)
        known = {name: (name,) for name in BACKBONES} | {"both": BACKBONES}
        if options.lpips_backbone not in known:
            raise ValueError(
                f"lpips_backbone is {shortened(options.lpips_backbone)}: use alex, vgg or both."
            )
        backbones = known[options.lpips_backbone] if options.lpips_weight else ()
        found = {name: LPIPS(name) for name in backbones}
        # An empty module would be a line of the plan.
        self.lpips: Any = nn.ModuleDict(found) if found else found
        if options.adversarial_weight and self.discriminator is None:
            raise ValueError(
                "adversarial_weight needs a discriminator: set networks.discriminator, for example "
                "to {channels: 64}, or adversarial_weight to 0."
            )

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return hinge_discriminator_loss(real, fake)

    def more_losses(self, x: Tensor, x_h: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Returns a system's own losses, with their weights, by name."""
        return {}

    def pretrained_names(self) -> Sequence[str]:
        return tuple(name for backbone in self.lpips for name in pretrained_names(backbone))

    def load_pretrained(self) -> None:
        for lpips in self.lpips.values():
            lpips.load()

    def turns(self) -> Mapping[str, Stage]:
        if not self.options.adversarial_weight:
            return super().turns()
        return {self.turn_name: self, "discriminator": DiscriminatorTurn(self)}

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        options, x = self.options, self.result(x_l, seeds)
        weighted = {"l1": (options.l1_weight, F.l1_loss(x, x_h))}
        for backbone, lpips in self.lpips.items():
            name = "lpips" if len(self.lpips) == 1 else f"lpips_{backbone}"
            weighted[name] = options.lpips_weight / len(self.lpips), lpips(x, x_h).mean()
        weighted |= self.more_losses(x, x_h)
        if options.adversarial_weight:
            assert self.discriminator is not None
            begun = self.step >= options.adversarial_start
            weight = options.adversarial_weight if begun else 0.0
            weighted["adversarial"] = weight, hinge_generator_loss(self.discriminator(x))
        losses = {name: loss for name, (_, loss) in weighted.items()}
        loss = weighted.pop("l1")[0] * losses["l1"]
        for weight, term in weighted.values():
            if weight:
                loss = loss + weight * term
        return {"loss": loss} | losses
