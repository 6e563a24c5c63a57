"""The base class of every training program: what it trains, with which losses, in which order."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from srmodels.compression.fake_quantisation import rounding
from srmodels.network import SRNetwork


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a schedule.

    Attributes:
        name: the key under which a recipe sets both, in `stages.<stage>.train.groups`.
    """

    name: str
    parameters: Sequence[nn.Parameter]


class Stage(nn.Module, ABC):
    """One training program of a system: the networks that learn, and their losses.

    Args:
        network: the system's networks; the stage freezes the parameters that it does not train.
        options: an instance of the class's `Options`.

    Raises:
        ValueError: the network is fused, or the options cannot work together.
    """

    #: Number of the present optimizer step, from 0; the engine sets it before `forward`.
    step: int = 0
    #: A dataclass with the stage's own settings; a recipe sets them under `stages.<name>.options`.
    Options: ClassVar[type]
    #: True where `preview` is the networks' inference, which sees x_l alone.
    previews_inference: bool = True
    #: The names of the networks that it reads and does not train, beside those of inference.
    reads: ClassVar[tuple[str, ...]] = ()
    #: True where the stage learns from a teacher. A recipe names it in `stages.<name>.teacher`.
    takes_teacher: ClassVar[bool] = False
    #: A frozen module that maps x_l `[B, 3, h, w]` to `[B, 3, scale·h, scale·w]`, both in [0, 1].
    teacher: nn.Module | None = None

    def __init__(self, network: SRNetwork, options: Any) -> None:
        """Chooses which weights learn. It changes nothing else of the networks, since checks make
        several stages on the same ones.

        Raises:
            ValueError: these networks cannot be trained so.
        """
        super().__init__()
        network.check_trainable()
        self.network = network
        self.options = options
        trainable = {id(p) for group in self.parameter_groups() for p in group.parameters}
        for parameter in network.parameters():
            parameter.requires_grad_(id(parameter) in trainable)

    def learn_from(self, teacher: nn.Module) -> None:
        """Gives the stage its teacher, frozen and in eval mode.

        The teacher is no child of the stage, so that no optimizer, average or checkpoint holds its
        weights.

        Args:
            teacher: a module on the stage's device, see `Stage.teacher`.
        """
        assert self.takes_teacher, f"{type(self).__name__} learns from no teacher"
        self.__dict__["teacher"] = teacher.requires_grad_(False).eval()

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Returns the parameters that this stage trains; all others of the network are frozen."""

    def turns(self) -> "Mapping[str, Stage]":
        """Returns the stages that take turns in every step, by name, in the order of their turns.

        Each has an optimizer and one backward of its own. An adversarial stage has a generator and
        a discriminator, and both share its network. By default the stage itself is the only turn,
        and its name is empty.

        Building a turn freezes the parameters of the others. So a caller that steps the turns calls
        `train_only` before each turn.
        """
        return {"": self}

    def trained_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that the turns train, each one once."""
        found = {
            id(parameter): parameter
            for turn in self.turns().values()
            for group in turn.parameter_groups()
            for parameter in group.parameters
        }
        return list(found.values())

    @property
    def num_samples(self) -> int:
        """The number of training samples that `start` looks at."""
        return 0

    def start(self, x_l: Tensor, x_h: Tensor) -> Sequence[str]:
        """Prepares the networks for a new run of this stage. It is not called for a resumed run.

        It may change the structure of the networks, see `srmodels.compression.structure`.

        Args:
            x_l: the first LR crops of the training, `[num_samples, 3, h, w]` in [0, 1], the same
                on all ranks.
            x_h: their HR crops `[num_samples, 3, scale·h, scale·w]`.

        Returns:
            lines for people.

        Raises:
            ValueError: these networks cannot be prepared so.
        """
        return []

    def prepare(self) -> Sequence[str]:
        """Makes ready what the losses need of the networks' structure, which stays from here on.

        It is called before the first step of a run, after `start`, and before a resumed run goes
        on.

        Returns:
            lines for people.

        Raises:
            ValueError: these networks have no such structure.
        """
        return []

    def pretrained_names(self) -> Sequence[str]:
        """Returns the names of the pretrained weights that the losses need (`srmodels.weights`)."""
        return ()

    def load_pretrained(self) -> None:
        """Loads the pretrained weights into the losses. It is called before training.

        Raises:
            ValueError: some of them cannot be found.
        """

    @abstractmethod
    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """Returns the losses of one batch, each a scalar, with the same keys at every step.

        Training minimises the one called `loss`.

        Args:
            x_l: LR crops `[B, 3, h, w]` in [0, 1].
            x_h: HR crops `[B, 3, scale·h, scale·w]` in [0, 1].
            seeds: `[B]` int64, one for each sample, in main memory, since a host that reads them
                on a GPU waits for it. The stage draws all random numbers from them, so that a
                sample's loss depends neither on its batch nor on its rank. A stage that cannot do
                so says it.
        """

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Returns a picture that comes closer to x_h as the training goes on.

        Args:
            x_l: LR images `[B, 3, h, w]` in [0, 1].
            x_h: HR images `[B, 3, scale·h, scale·w]` in [0, 1], for a stage that does not train
                the inference path.

        Returns:
            images `[B, 3, scale·h, scale·w]`, about in [0, 1].
        """
        with rounding(self.network):
            x: Tensor = self.network(x_l)
        return x


def train_only(stage: Stage, turns: Iterable[Stage]) -> None:
    """Lets `stage` alone learn among `turns`.

    Gradients flow through the weights of the other turns, and not into them.
    """
    for turn in turns:
        for group in turn.parameter_groups():
            for parameter in group.parameters:
                parameter.requires_grad_(turn is stage)
