"""The one door to the library spandrel, an extra: its classes, and its reader of checkpoints.

Licences are those of the architectures; spandrel lists them.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: The classes' names for the factor between LR and HR.
_SCALE_ARGUMENTS = ("scale", "upscale", "upscaling_factor", "upscale_factor", "up_scale")


@dataclass(frozen=True)
class Architecture:
    """A class of spandrel's, and the reader of its checkpoints.

    Attributes:
        name: name of the class.
        create: the class; it takes keyword arguments alone, and keeps them as `hyperparameters`.
        reader: spandrel's `Architecture`, which recognises the options of a state dict.
    """

    name: str
    create: type[nn.Module]
    reader: Any

    @property
    def scale_argument(self) -> str | None:
        """The class's name for the scale; None where that is fixed."""
        known = inspect.signature(self.create).parameters
        return next((name for name in _SCALE_ARGUMENTS if name in known), None)

    def build(self, scale: int, options: Mapping[str, Any]) -> nn.Module:
        """Returns a network with random weights, on the CPU: some classes look at values while they
        are made, which torch's meta device has not.

        Args:
            scale: how many times larger the result is.
            options: keyword arguments of the class.

        Raises:
            ValueError: the class does not take these options.
        """
        own = self.scale_argument
        if own is not None and options.get(own, scale) != scale:
            raise ValueError(
                f"networks.options.{own} is {options[own]} and networks.scale is {scale}: leave "
                f"the former out, it is set to the latter."
            )
        scales = {} if own is None else {own: scale}
        try:
            with torch.device("cpu"):
                return self.create(**{**options, **scales})
        except (TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:
            arguments = ", ".join(inspect.signature(self.create).parameters)
            raise ValueError(
                f"networks.architecture={self.name} cannot be made of networks.options "
                f"{dict(options)} ({_line(error)}): its arguments are {arguments}."
            ) from None

    def description(self, network: nn.Module) -> Any | None:
        """Returns what spandrel knows of a network of this class (scale, channels, which sizes it
        takes) by its weights' shapes alone; None where it cannot tell."""
        try:
            with torch.device("cpu"):
                return self.reader.load(dict(network.state_dict()))
        except Exception:
            # Readers are written for published checkpoints, and fail on others in any way.
            return None


def architecture(name: str) -> Architecture:
    """Returns the architecture whose class is called `name`.

    Raises:
        ValueError: spandrel is not installed, or has no such class; the message lists those it has.
    """
    found = _architectures()
    if name not in found:
        raise ValueError(
            f"networks.architecture is '{name}', which spandrel has not: use one of "
            f"{', '.join(found)}."
        )
    return found[name]


def read_checkpoint(path: Path) -> Any:
    """Returns spandrel's descriptor of a published checkpoint: it enlarges RGB images as it is
    called, and `model` is the network with its weights, on the CPU.

    Raises:
        ValueError: spandrel is not installed, cannot read the file, or finds another kind of
            network in it.
    """
    spandrel = _import(str(path))
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_file(path)
    except Exception as error:  # a file may be anything
        raise ValueError(f"spandrel cannot read {path} ({_line(error)}).") from None
    channels = found.input_channels, found.output_channels
    if not isinstance(found, spandrel.ImageModelDescriptor) or channels != (3, 3):
        raise ValueError(f"{path} ({found.architecture.name}) does not enlarge RGB images.")
    return found


def _architectures() -> dict[str, Architecture]:
    package = _import("the system spandrel").architectures
    found = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{module_info.name}")
        reader = getattr(module, f"{module_info.name}Arch")()
        for name in module.__all__:
            create = getattr(module, name)
            if isinstance(create, type) and issubclass(create, nn.Module):
                found[name] = Architecture(name, create, reader)
    return found


def _import(who: str) -> Any:
    """Returns the library; `who` needs it.

    Raises:
        ValueError: it cannot be imported.
    """
    try:
        import spandrel
        import spandrel.architectures
    except (ImportError, RuntimeError) as error:  # the latter: torchvision of another torch
        raise ValueError(
            f"{who} needs the library spandrel, which cannot be imported ({_line(error)}): "
            "pip install -e '.[spandrel]', with the torchvision that belongs to your torch."
        ) from None
    return spandrel


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
