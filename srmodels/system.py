"""The definition of a trainable system: its configuration, its networks and its stages, under one
name.

A recipe names it as `system:`, either a package of `srmodels` (`rdsr`) or any importable module
(`my_package.my_system`); the module defines `SYSTEM`. That is the whole registration: a new system
costs one module and one YAML.
"""

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from srmodels.compression.structure import apply_structure
from srmodels.network import SRNetwork
from srmodels.stage import Stage
from srmodels.stages import SHARED_STAGES


@dataclass
class InitialWeights:
    """The source of first weights for networks that start from no other stage.

    These weights are random. A system that can start from weights of others derives a class of its
    own, with a key for each source.
    """

    def files(self) -> dict[str, Path]:
        """Returns the files of the named sources, by key; downloads those that are elsewhere.

        Raises:
            ValueError: a file cannot be had.
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
    """A named family of networks. A system's module holds it as `SYSTEM`.

    Attributes:
        name: name in messages.
        config: dataclass of the networks' numbers, a recipe's `networks`; it has a `scale`.
        network: class of the networks; it is called with an instance of `config`.
        stages: the system's own training programs by kind. It has the shared ones of
            `srmodels.stages` too. Where both have the same name, its own one wins.
        initial: dataclass of the sources of first weights, a recipe's `init`.
    """

    name: str
    config: type
    network: type[SRNetwork]
    stages: Mapping[str, type[Stage]]
    initial: type[InitialWeights] = InitialWeights

    def build(self, config: Any) -> SRNetwork:
        """Returns the networks for an instance of `self.config`, on torch's default device."""
        network = self.network(config)  # type: ignore[arg-type]
        apply_structure(network, config)
        return network

    def stage_kinds(self) -> list[str]:
        """Returns the names of all stages that these networks can be trained by, its own first."""
        return list(dict.fromkeys([*self.stages, *SHARED_STAGES]))

    def stage(self, kind: str) -> type[Stage]:
        """Returns the stage of this kind: the system's own, else the shared one.

        Raises:
            ValueError: there is none; the message lists those that exist.
        """
        found = self.stages.get(kind) or SHARED_STAGES.get(kind)
        if found is None:
            raise ValueError(
                f"unknown kind of stage '{kind}': {self.name} has {', '.join(self.stage_kinds())}."
            )
        return found


def system_names() -> list[str]:
    """Returns the names of every system package in `srmodels`."""
    import srmodels

    packages = (m.name for m in pkgutil.iter_modules(srmodels.__path__) if m.ispkg)
    return sorted(
        name for name in packages if importlib.util.find_spec(f"srmodels.{name}.system") is not None
    )


def load_system(name: str) -> System:
    """Returns the system called `name`.

    Args:
        name: a package of `srmodels`, or the dotted path of a module. It is looked for where Python
            looks, and then in the current directory.

    Raises:
        ValueError: there is no such system (the message lists those that ship), the module holds
            none, or it cannot be imported.
    """
    if name in system_names():
        module = importlib.import_module(f"srmodels.{name}.system")
    elif "." in name:
        module = _import_own(name)
    else:
        raise ValueError(
            f"there is no system '{name}': use one of {', '.join(system_names())}, or the dotted "
            "path of a module of your own, such as my_package.my_system."
        )
    system, file = getattr(module, "SYSTEM", None), getattr(module, "__file__", "built-in")
    if system is None:
        raise ValueError(
            f"the module '{name}' ({file}) has no SYSTEM: let it define one, "
            "SYSTEM = srmodels.system.System(...)."
        )
    if not isinstance(system, System):
        raise ValueError(
            f"SYSTEM in the module '{name}' is of type {type(system).__name__}: make it a "
            "srmodels.system.System."
        )
    if not module.__name__.startswith("srmodels."):
        package = sys.modules[name.partition(".")[0]]
        _own_packages[package.__name__] = Path(next(iter(package.__path__))).resolve()
    return system


def own_packages() -> list[Path]:
    """Returns the folders of the packages that `load_system` imported from outside `srmodels`: what
    other machines need to load the same systems."""
    return list(_own_packages.values())


#: By the name of the package.
_own_packages: dict[str, Path] = {}


def leads_into(name: str, folder: Path) -> bool:
    """Returns True if `load_system` might run code that lies in a folder. Nothing is imported."""
    if name in system_names():
        return False
    first, *others = name.split(".")
    folder = folder.resolve()
    for root in (*sys.path, str(Path.cwd())):
        try:
            entries = os.listdir(root or ".")
        except OSError:
            continue
        # A folder, or a file with one of the many endings of a module.
        starts = [entry for entry in entries if entry == first or entry.startswith(f"{first}.")]
        deeper = [os.path.join(first, *others[:count]) for count in range(1, len(others) + 1)]
        paths = [*starts, *(deeper if starts else ())]
        if any(Path(root, path).resolve().is_relative_to(folder) for path in paths):
            return True
    return False


def _import_own(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            f"'{name}' is no name of a system: write PACKAGE.MODULE, as Python imports it."
        )
    # A job is a script in another folder, so Python does not look here by itself. On sys.path it
    # also reaches the processes that load data, which are given the path of the one that starts
    # them. Last, so that nothing here takes the place of an installed module.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no system '{name}' ({error}): run the job in the folder that holds "
                f"'{name.partition('.')[0]}', or install it."
            ) from None
        raise ValueError(
            f"the system '{name}' cannot be imported: {_where(error, name)}."
        ) from None


def _where(error: BaseException, name: str) -> str:
    """Returns an error in the import of a module as `FILE, line N: Type: message`; the place is the
    last one in the module's package."""
    message = traceback.format_exception_only(error)[-1].strip().rstrip(".")
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {message}"
    frames, package = traceback.extract_tb(error.__traceback__), name.partition(".")[0]
    own = [frame for frame in frames if package in Path(frame.filename).parts]
    return f"{own[-1].filename}, line {own[-1].lineno}: {message}" if own else message
