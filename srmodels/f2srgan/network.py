"""The whole F2SRGAN: the generator that ships, and its discriminator."""

import copy

from torch import Tensor, nn

from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.fourier import use_matrices
from srmodels.f2srgan.generator import SeparableBlock, SeparableGenerator
from srmodels.f2srgan.plain import PlainGenerator
from srmodels.network import SRNetwork


class F2SRGAN(SRNetwork):
    """Super-resolution for small devices: F2SRGAN, the student of Light F2SRGAN, or a plain stack.

    F2SRGAN: IEEE Access 11:29062, 2023. Light F2SRGAN: MDPI Electronics 12(11):2544, 2023.
    """

    def __init__(self, config: F2SRGANConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        plain = config.trunk == "plain"
        # Fourier blocks divide the image into quadrants.
        self.size_multiple = 2 if config.trunk == "fourier" else 1
        self.generator = PlainGenerator(config) if plain else SeparableGenerator(config)
        self.discriminator = config.discriminator.build() if config.discriminator else None

    def inference_modules(self) -> dict[str, nn.Module]:
        """Returns the generator; the discriminator stays behind."""
        return {"generator": self.generator}

    def checkpointed_modules(self) -> list[nn.Module]:
        """Returns the residual blocks."""
        return [module for module in self.modules() if isinstance(module, SeparableBlock)]

    def for_tile(self, tile: int) -> nn.Module:
        """Returns the network with matrices for this size in the place of Fourier transforms."""
        if self.config.trunk != "fourier":
            return self
        network = copy.deepcopy(self)
        use_matrices(network, tile, tile)
        return network

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.generator(x_l)
        # Training reads what lies outside [0, 1] too: where a clamp holds, nothing learns.
        return x if self.training else x.clamp(0.0, 1.0)
