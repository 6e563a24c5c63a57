"""A system for tests: networks of any width, and a stage that learns from a teacher alone."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.compression.structure import NetworkConfig
from srmodels.network import SRNetwork
from srmodels.stage import ParameterGroup, Stage
from srmodels.system import System


@dataclass
class TaughtConfig(NetworkConfig):
    scale: int = 4
    width: int = 16


class TaughtNetwork(SRNetwork):
    """Two convolutions and a pixel shuffle."""

    size_multiple = 1

    def __init__(self, config: TaughtConfig) -> None:
        super().__init__()
        self.config, self.scale = config, config.scale
        self.body = nn.Sequential(
            nn.Conv2d(3, config.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, 3 * config.scale**2, 3, padding=1),
        )

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"body": self.body}

    def forward(self, x_l: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x_l), self.scale).clamp(0.0, 1.0)


class WideStage(Stage):
    """Learns from x_h."""

    @dataclass
    class Options:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("body", list(self.network.parameters()))]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return {"loss": F.l1_loss(self.network(x_l), x_h)}


class TaughtStage(WideStage):
    """Learns from what its teacher makes of x_l, and from nothing else."""

    takes_teacher = True

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        assert self.teacher is not None
        with torch.no_grad():
            told = self.teacher(x_l)
        return {"loss": F.l1_loss(self.network(x_l), told)}


SYSTEM = System(
    name="tests.systems.taught",
    config=TaughtConfig,
    network=TaughtNetwork,
    stages={"wide": WideStage, "taught": TaughtStage},
)
