"""The base of every training program: what learns, from which losses, in which order."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from srmodels.network import SRNetwork


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
    #: True if `preview` is the networks' inference, from x_l alone.
    previews_inference: bool = True
    #: Whether the stage learns from a teacher; a recipe names it under `stages.<name>.teacher`.
    takes_teacher: ClassVar[bool] = False
    #: Maps x_l `[B, 3, h, w]` to `[B, 3, scale·h, scale·w]`, both in [0, 1]; frozen.
    teacher: nn.Module | None = None

    def __init__(self, network: SRNetwork, options: Any) -> None:
        super().__init__()
        network.check_trainable()
        self.network = network
        self.options = options
        trainable = {id(p) for group in self.parameter_groups() for p in group.parameters}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in trainable)

    def learn_from(self, teacher: nn.Module) -> None:
        """Gives the stage its teacher: frozen, in eval mode, and no child of the stage, so that no
        optimizer, average or checkpoint holds its weights."""
        assert self.takes_teacher, f"{type(self).__name__} learns from no teacher"
        self.__dict__["teacher"] = teacher.requires_grad_(False).eval()

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Returns the parameters this stage trains; everything else of the network is frozen."""

    def parts(self) -> "Mapping[str, Stage]":
        """Returns stages that take turns in every step, each with an optimizer and one backward of
        its own, in this order: generator and discriminator of an adversarial stage, whose network
        both of them share. By default there is one, without a name: the stage itself. To make them
        freezes what they do not train, so whoever steps them calls `train_only` before each."""
        return {"": self}

    def trained_parameters(self) -> list[nn.Parameter]:
        """Returns what all parts train, each once."""
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
        """Returns the names of the weights that the losses need from elsewhere, see
        `srmodels.weights`."""
        return ()

    def load_pretrained(self) -> None:
        """Gives the losses those weights; called before training.

        Raises:
            ValueError: they are not at hand.
        """

    @abstractmethod
    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Returns the losses of one batch, with the same keys at every step; `loss` is what is
        minimised.

        Args:
            x_l: LR crops `[B, 3, h, w]` in [0, 1].
            x_h: HR crops `[B, 3, scale·h, scale·w]` in [0, 1].
            seeds: `[B]` int64, one per sample: all randomness of the stage is drawn from them, so
                that a sample's loss does not depend on the batch or the rank it came with (a stage
                that cannot keep that says so).
        """

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Returns what the stage can show of its learning: a picture that nears x_h as training
        goes on.

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
    """Lets `stage` alone learn, of these parts: gradients flow through the weights of the others,
    and not into them."""
    for part in parts:
        for group in part.parameter_groups():
            for parameter in group.parameters:
                parameter.requires_grad_(part is stage)
