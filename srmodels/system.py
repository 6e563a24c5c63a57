"""What a trainable system is: its configuration, its networks and its stages, under one name.

A package `srmodels.<name>` that defines `SYSTEM` can be named as `system:` in a recipe. That is the
whole registration: a new system costs one folder here and one YAML.
"""

import importlib
import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from srmodels.layers import fuse

#: Seed of the noise that inference starts from: one picture per input, on every device.
INFERENCE_SEED = 0


class SRNetwork(nn.Module, ABC):
    """A system's networks with its inference path.

    `forward` maps an LR image `[B, 3, h, w]` in [0, 1] to `[B, 3, scale·h, scale·w]` in [0, 1];
    `h` and `w` must be multiples of `size_multiple`.
    """

    scale: int
    size_multiple: int
    #: Whether `fuse` found something: what ships. Such networks cannot be trained.
    fused: bool = False

    @abstractmethod
    def forward(self, x_l: Tensor) -> Tensor: ...

    @abstractmethod
    def inference_modules(self) -> dict[str, nn.Module]:
        """The child modules that `forward` uses, by name: what ships. Others only train."""

    def finetuning_modules(self) -> dict[str, nn.Module]:
        """The child modules that do not ship and that stages other than the first ones need."""
        return {}

    def for_tile(self, tile: int) -> nn.Module:
        """The inference path for LR tiles `[1, 3, tile, tile]`, with nothing drawn at run time:
        what exporters trace."""
        return self

    def checkpointed_modules(self) -> list[nn.Module]:
        """The modules whose activations dominate training's memory, none inside another: what
        activation checkpointing recomputes. Empty: the network has nothing to recompute."""
        return []

    def fuse(self) -> Self:
        """Puts its one convolution in the place of everything that trains as several branches, for
        good; in eval mode. Networks without such branches stay as they are."""
        if fuse(self):
            self.fused = True
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`.

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
        """The weights that ship."""
        return weights_of(self.inference_modules(), self.state_dict())

    def load_inference_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """The inverse of `inference_state_dict`.

        Raises:
            ValueError: names or shapes are not this network's.
        """
        load_weights(self, self.inference_modules(), weights)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a schedule; a recipe sets them by `name`, under
    `stages.<stage>.train.groups`."""

    name: str
    parameters: Sequence[nn.Parameter]


class Stage(nn.Module, ABC):
    """One training program of a system: which networks learn, and from which losses.

    Args:
        network: the system's networks; the stage freezes what it does not train.
        options: an instance of the class's `Options`.

    Raises:
        ValueError: the network is fused, or the options are impossible.
    """

    #: Number of the optimizer step that `forward` is called for, from 0; the engine sets it.
    step: int = 0
    #: A dataclass with the stage's own settings; a recipe sets them under `stages.<name>.options`.
    Options: ClassVar[type]
    #: Whether `preview` is the networks' inference, from x_l alone.
    previews_inference: bool = True

    def __init__(self, network: SRNetwork, options: Any) -> None:
        super().__init__()
        network.check_trainable()
        self.network = network
        self.options = options
        trainable = {id(p) for group in self.parameter_groups() for p in group.parameters}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in trainable)

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameters this stage trains; everything else of the network is frozen."""

    def parts(self) -> "Mapping[str, Stage]":
        """Stages that take turns in every step, each with an optimizer and one backward of its own,
        in this order: generator and discriminator of an adversarial stage, whose network both of
        them share. By default there is one, without a name: the stage itself. To make them freezes
        what they do not train, so whoever steps them calls `train_only` before each."""
        return {"": self}

    def trained_parameters(self) -> list[nn.Parameter]:
        """What all parts train, each once."""
        found = {
            id(parameter): parameter
            for part in self.parts().values()
            for group in part.parameter_groups()
            for parameter in group.parameters
        }
        return list(found.values())

    def start(self) -> None:
        """Prepares the networks for a new run of this stage; a resumed one goes on without."""

    def pretrained_names(self) -> Sequence[str]:
        """The weights that the losses need from elsewhere, see `srmodels.pretrained`."""
        return ()

    def load_pretrained(self) -> None:
        """Gives the losses those weights; called before training.

        Raises:
            ValueError: they are not at hand.
        """

    @abstractmethod
    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Losses of one batch, with the same keys at every step; `loss` is what is minimised.

        Args:
            x_l: LR crops `[B, 3, h, w]` in [0, 1].
            x_h: HR crops `[B, 3, scale·h, scale·w]` in [0, 1].
            seeds: `[B]` int64, one per sample: all randomness of the stage is drawn from them, so
                that a sample's loss does not depend on the batch or the rank it came with (a stage
                that cannot keep that says so).
        """

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """What the stage can show of its learning: a picture that nears x_h as training goes on.

        Args:
            x_l: LR images `[B, 3, h, w]` in [0, 1].
            x_h: HR images `[B, 3, scale·h, scale·w]` in [0, 1], for stages that do not train the
                inference path.

        Returns:
            `[B, 3, scale·h, scale·w]`, about [0, 1].
        """
        x: Tensor = self.network(x_l)
        return x


def train_only(stage: Stage, parts: Iterable[Stage]) -> None:
    """Of these parts, `stage` alone learns: gradients flow through the weights of the others, and
    not into them."""
    for part in parts:
        for group in part.parameter_groups():
            for parameter in group.parameters:
                parameter.requires_grad_(part is stage)


@dataclass
class InitialWeights:
    """Where networks that start from no other stage get their first weights: at random. A system
    that can start from weights of others derives its own, with a key for each source."""

    def files(self) -> dict[str, Path]:
        """The files that are named, by key; what is elsewhere is downloaded.

        Raises:
            ValueError: one cannot be had.
        """
        return {}

    def load(self, network: Any, files: Mapping[str, Path]) -> list[str]:
        """Fills the networks from these files; returns a line for each, for people.

        Raises:
            ValueError: a file does not fit its network, or is damaged.
        """
        return []


@dataclass(frozen=True)
class System:
    """A named family of networks: what `srmodels.<name>.SYSTEM` holds."""

    name: str
    config: type
    network: type[SRNetwork]
    stages: Mapping[str, type[Stage]]
    initial: type[InitialWeights] = InitialWeights

    def build(self, config: Any) -> SRNetwork:
        """The networks for an instance of `self.config`, on torch's default device."""
        return self.network(config)  # type: ignore[arg-type]


def system_names() -> list[str]:
    """Names of every system package in `srmodels`."""
    import srmodels

    packages = (m.name for m in pkgutil.iter_modules(srmodels.__path__) if m.ispkg)
    return sorted(
        name for name in packages if importlib.util.find_spec(f"srmodels.{name}.system") is not None
    )


def load_system(name: str) -> System:
    """The system called `name`.

    Raises:
        ValueError: there is no such system; the message lists those that exist.
    """
    if name not in system_names():
        raise ValueError(f"there is no system '{name}': use one of {', '.join(system_names())}.")
    system = importlib.import_module(f"srmodels.{name}.system").SYSTEM
    assert isinstance(system, System)
    return system


def weights_of(modules: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a network's weights those of the child modules with these names."""
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


def per_sample_normal(seeds: Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """Standard normal noise `[B, *shape]`, each sample's drawn from its own seed.

    Args:
        seeds: `[B]` int64.
        shape: of one sample.
        stream: separates independent draws of the same sample.

    Seeds without values (meta or fake tensors) give noise without values.
    """
    if _has_no_values(seeds):
        return torch.empty(len(seeds), *shape, device=seeds.device)
    return torch.stack(
        [torch.randn(tuple(shape), generator=_generator(int(s), stream)) for s in seeds.cpu()]
    ).to(seeds.device)


def per_sample_uniform(seeds: Tensor, stream: int = 0) -> Tensor:
    """Uniform numbers `[B]` in [0, 1), each drawn from its sample's own seed; without values where
    the seeds have none."""
    if _has_no_values(seeds):
        return torch.empty(len(seeds), device=seeds.device)
    return torch.cat([torch.rand(1, generator=_generator(int(s), stream)) for s in seeds.cpu()]).to(
        seeds.device
    )


def _has_no_values(seeds: Tensor) -> bool:
    """Whether only shapes are computed: what a dry run measures a stage with."""
    return seeds.is_meta or isinstance(seeds, FakeTensor)


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + stream) & 0x7FFFFFFFFFFFFFFF)
