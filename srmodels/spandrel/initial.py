"""Published checkpoints of spandrel's architectures, as a start."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from srmodels.spandrel.architectures import architecture, read_checkpoint
from srmodels.spandrel.network import SpandrelNetwork
from srmodels.system import InitialWeights


@dataclass
class SpandrelInitialWeights(InitialWeights):
    """The source of first weights. Without one, they are random.

    checkpoint: a file that spandrel reads (.pth, .ckpt, .safetensors), of the recipe's architecture
        and options.
    """

    checkpoint: str | None = None

    def files(self) -> dict[str, Path]:
        if self.checkpoint is None:
            return {}
        path = Path(self.checkpoint)
        if not path.is_file():
            raise ValueError(f"init.checkpoint: there is no file '{path}'.")
        return {"checkpoint": path}

    def load(self, network: SpandrelNetwork, files: Mapping[str, Path]) -> list[str]:
        lines = []
        for path in files.values():
            found = read_checkpoint(path).model
            _check_same(network, found, path)
            network.body.load_state_dict(found.state_dict())
            lines.append(f"init.checkpoint: {len(found.state_dict())} tensors of {path}")
        return lines


def _check_same(network: SpandrelNetwork, found: nn.Module, path: Path) -> None:
    """Refuses a checkpoint of another network than the recipe's.

    Raises:
        ValueError: tells the architecture and the options that the checkpoint has.
    """
    name, wanted = type(found).__name__, network.config.architecture
    made = architecture(wanted)
    theirs, ours = _options(found), _options(network.body)
    if not isinstance(found, made.create):
        settings = {f"networks.options.{key}": value for key, value in theirs.items()}
        settings = {"networks.architecture": name} | settings
    else:
        names = {made.scale_argument: "networks.scale"}
        settings = {
            names.get(key, f"networks.options.{key}"): value
            for key, value in theirs.items()
            if ours.get(key) != value
        }
    if settings:
        listing = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise ValueError(
            f"init.checkpoint: {path} is of another network than the recipe's {wanted}: set "
            f"{listing}."
        )


def _options(network: nn.Module) -> dict[str, Any]:
    """Returns the arguments that a network was made with, as a YAML file would hold them."""
    options: dict[str, Any] = network.hyperparameters  # type: ignore[assignment]
    return {key: _plain(value) for key, value in options.items()}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
