"""The base of every system's networks: an inference path, and weights that ship."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from srmodels.layers import fuse

#: Seed of the noise that inference starts from: one picture per input, on every device.
INFERENCE_SEED = 0


class SRNetwork(nn.Module, ABC):
    """A system's networks with its inference path.

    `forward` maps an LR image `[B, 3, h, w]` in [0, 1] to `[B, 3, scale·h, scale·w]` in [0, 1];
    `h` and `w` must be multiples of `size_multiple`. In training mode the result may leave [0, 1]:
    where a clamp holds, nothing learns.
    """

    scale: int
    size_multiple: int
    #: True once `fuse` found something: what ships. Such networks cannot be trained.
    fused: bool = False

    @abstractmethod
    def forward(self, x_l: Tensor) -> Tensor: ...

    @abstractmethod
    def inference_modules(self) -> dict[str, nn.Module]:
        """Returns the child modules that `forward` uses, by name: what ships. Others only train."""

    def finetuning_modules(self) -> dict[str, nn.Module]:
        """Returns the child modules that do not ship and that stages other than the first ones
        need."""
        return {}

    def for_tile(self, tile: int) -> nn.Module:
        """Returns the inference path for LR tiles `[1, 3, tile, tile]`, with nothing drawn at run
        time: what exporters trace."""
        return self

    def checkpointed_modules(self) -> list[nn.Module]:
        """Returns the modules whose activations dominate training's memory, none inside another:
        what activation checkpointing recomputes. Empty: the network has nothing to recompute."""
        return []

    def fuse(self) -> Self:
        """Puts its one convolution in the place of everything that trains as several branches, for
        good; in eval mode. Networks without such branches stay as they are."""
        if fuse(self):
            self.fused = True
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Switches to training or back, as `nn.Module.train` does.

        Raises:
            ValueError: the network is fused.
        """
        if mode:
            self.check_trainable()
        return super().train(mode)

    def check_trainable(self) -> None:
        """
        Raises:
            ValueError: the network is fused.
        """
        if self.fused:
            raise ValueError(
                "these networks are fused for inference, which cannot be undone: train the ones "
                "that they were fused from, in the checkpoint of their run."
            )

    def inference_state_dict(self) -> dict[str, Tensor]:
        """Returns the weights that ship."""
        return weights_of(self.inference_modules(), self.state_dict())

    def load_inference_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Fills the networks that ship: the inverse of `inference_state_dict`.

        Raises:
            ValueError: names or shapes are not this network's.
        """
        load_weights(self, self.inference_modules(), weights)


def weights_of(modules: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns those of a network's weights that belong to the child modules with these names."""
    prefixes = tuple(f"{name}." for name in modules)
    return {name: weight for name, weight in weights.items() if name.startswith(prefixes)}


def load_weights(network: SRNetwork, modules: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    """Fills these child modules of a network.

    Raises:
        ValueError: names or shapes are not theirs.
    """
    expected = weights_of(modules, network.state_dict())
    wrong = {
        n for n in expected.keys() | weights.keys() if _shape(expected, n) != _shape(weights, n)
    }
    if wrong:
        raise ValueError(
            f"the weights do not fit the network: {len(wrong)} tensors differ, for example "
            f"{min(wrong)}."
        )
    network.load_state_dict(weights, strict=False)


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None
