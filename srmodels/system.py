"""What a trainable system is: its configuration, its networks and its stages, under one name.

A package `srmodels.<name>` that defines `SYSTEM` can be named as `system:` in a recipe. That is the
whole registration: a new system costs one folder here and one YAML.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srmodels.network import SRNetwork
from srmodels.stage import Stage


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
