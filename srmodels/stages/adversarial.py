"""The turn of a discriminator, beside a stage whose images it judges."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from srmodels.layers import PatchDiscriminator
from srmodels.network import SRNetwork
from srmodels.stage import ParameterGroup, Stage


class JudgedStage(Stage):
    """A stage whose images a patch discriminator judges."""

    @property
    def discriminator(self) -> PatchDiscriminator | None:
        """The network's, if it has one."""
        found: PatchDiscriminator | None = getattr(self.network, "discriminator", None)
        return found

    @abstractmethod
    def result(self, x_l: Tensor, seeds: Tensor) -> Tensor:
        """Returns the image that is judged, `[B, 3, scale·h, scale·w]`, about [0, 1]."""

    @abstractmethod
    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns what the discriminator minimises, a scalar, of its scores of x_h and of the
        result."""


class DiscriminatorTurn(Stage):
    """Learns to tell x_h from what the judged stage makes."""

    judged: JudgedStage

    def __init__(self, judged: JudgedStage) -> None:
        # Not a child: its weights belong to the stage that they are of.
        self.__dict__["judged"] = judged
        network: SRNetwork = judged.network
        options: Any = judged.options
        super().__init__(network, options)

    @property
    def discriminator(self) -> PatchDiscriminator:
        """The judge."""
        assert self.judged.discriminator is not None
        return self.judged.discriminator

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("discriminator", list(self.discriminator.parameters()))]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            x = self.judged.result(x_l, seeds)
        real, fake = self.discriminator(x_h), self.discriminator(x)
        loss = self.judged.discriminator_loss(real, fake)
        return {"loss": loss, "real": real.mean(), "fake": fake.mean()}
