"""The base class of every system's networks: an inference path, and weights that ship."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from srmodels.compression.fake_quantisation import keep_rounded_weights
from srmodels.layers import ReparameterisedConv, fuse
from srmodels.tiling import Tiling

#: Seed of the noise that inference starts from, so that an input has one result on every device.
INFERENCE_SEED = 0


@dataclass(frozen=True)
class Part:
    """A part of an inference path, which runs alone.

    Attributes:
        module: takes `inputs` in their order; returns a tensor, or a tuple of `outputs`.
        inputs, outputs: names of tensors; `x_l` and `x_h` are those of the whole path.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class SRNetwork(nn.Module, ABC):
    """A system's networks, with their inference path.

    `forward` maps LR images `[B, 3, h, w]` in [0, 1] to `[B, 3, scale·h, scale·w]` in [0, 1]. In
    training mode the result may leave [0, 1]: where a clamp holds, nothing learns.

    Attributes:
        scale: factor by which `forward` enlarges each side.
        size_multiple: height and width of x_l must be multiples of it.
        fused: True where `fuse` has replaced branches. Fused networks cannot be trained.
        compressible: True where the system's configuration can hold what compression changes.
        widths, quantised: what compression changed (`srmodels.compression.structure`).
    """

    scale: int
    size_multiple: int
    fused: bool = False
    compressible: bool = False
    widths: Mapping[str, list[int]] = MappingProxyType({})
    quantised: str = ""

    @property
    def structure(self) -> dict[str, Any]:
        """The changes of compression, as `NetworkConfig` has them."""
        return {"widths": dict(self.widths), "quantised": self.quantised}

    @abstractmethod
    def forward(self, x_l: Tensor) -> Tensor:
        """Maps an LR image `[B, 3, h, w]` to `[B, 3, scale·h, scale·w]`, both in [0, 1]."""

    @abstractmethod
    def inference_modules(self) -> dict[str, nn.Module]:
        """Returns the child modules that `forward` uses, by name. They ship; the others do not."""

    def finetuning_modules(self) -> dict[str, nn.Module]:
        """Returns the child modules, by name, that do not ship and that a finetuning needs."""
        return {}

    def for_tile(self, tile: int) -> nn.Module:
        """Returns the module that exporters trace: the inference path for one tile size.

        It maps LR tiles `[1, 3, tile, tile]` to HR tiles `[1, 3, scale·tile, scale·tile]`, both in
        [0, 1], and draws no random numbers.
        """
        return self

    def parts_for_tile(self, tile: int) -> dict[str, Part]:
        """Returns the parts that `for_tile` consists of, by name, in the order in which they run.

        A phone can load one after the other. Empty where the path is not made of parts.
        """
        return {}

    def tiling(self, tile: int) -> Tiling:
        """Returns how images are cut for `forward`: into tiles of `tile` px; where it takes images
        of any size, into as few as memory allows."""
        if self.for_tile(tile) is self:
            return Tiling.for_any_size(self.size_multiple)
        return Tiling.for_tile(tile)

    def checkpointed_modules(self) -> list[nn.Module]:
        """Returns the modules that activation checkpointing recomputes, none inside another.

        Their activations dominate the memory of training. The list is empty where the network has
        nothing to recompute.
        """
        return []

    def fuse(self) -> Self:
        """Replaces every group of branches by the one convolution that equals it, in eval mode.

        This cannot be undone. Networks without branches stay as they are, but that the weights of
        quantised ones become what integers hold.

        Returns:
            the network itself.
        """
        if fuse(self):
            self.fused = True
        keep_rounded_weights(self)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Sets train or eval mode, as `nn.Module.train` does.

        Raises:
            ValueError: `mode` is True and the network is fused.
        """
        if mode:
            self.check_trainable()
        return super().train(mode)

    def check_trainable(self) -> None:
        """Checks that the network can be trained.

        Raises:
            ValueError: the network is fused.
        """
        if self.fused:
            raise ValueError(
                "these networks are fused for inference, which cannot be undone: train the ones "
                "that they were fused from, in the checkpoint of their run."
            )

    def check_compressible(self) -> None:
        """Checks that what compression changes can be kept.

        Raises:
            ValueError: the configuration has no place for it.
        """
        if not self.compressible:
            raise ValueError(
                "the structure of these networks cannot be kept: let the dataclass of the system's "
                "numbers derive from srmodels.compression.structure.NetworkConfig."
            )

    def inference_state_dict(self) -> dict[str, Tensor]:
        """Returns the weights that ship, by their names in `state_dict`."""
        return weights_of(self.inference_modules(), self.state_dict())

    def load_inference_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Loads what `inference_state_dict` returned.

        Raises:
            ValueError: a name or a shape differs from this network's.
        """
        load_weights(self, self.inference_modules(), weights)

    def load_fused_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Loads what `inference_state_dict` of the fused networks returned into these, which are
        not: each group of branches then equals the convolution that it was fused into.

        Raises:
            ValueError: a name or a shape differs from those of these networks once fused, or a
                group of branches cannot equal any convolution.
        """
        plain = dict(weights)
        branches: dict[str, Tensor] = {}
        for name, module in self.named_modules():
            if not isinstance(module, ReparameterisedConv):
                continue
            shape = module.out_channels, module.in_channels, 3, 3
            weight, bias = (plain.pop(f"{name}.{part}", None) for part in ("weight", "bias"))
            if weight is None or bias is None or (weight.shape, bias.shape) != (shape, shape[:1]):
                raise ValueError(f"the weights do not fit the network: those of {name} differ.")
            module.become(weight, bias)
            branches |= {f"{name}.{part}": w for part, w in module.state_dict().items()}
        load_weights(self, self.inference_modules(), plain | branches)


def weights_of(modules: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns those of a network's weights that belong to the child modules with these names."""
    prefixes = tuple(f"{name}." for name in modules)
    return {name: weight for name, weight in weights.items() if name.startswith(prefixes)}


def load_weights(network: SRNetwork, modules: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    """Loads weights into the child modules with these names.

    Raises:
        ValueError: a name or a shape differs from theirs.
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
