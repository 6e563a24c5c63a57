"""The choice of one of spandrel's architectures, and its options."""

from dataclasses import dataclass, field
from typing import Any

from srmodels.checks import check_positive
from srmodels.compression.structure import NetworkConfig


@dataclass
class SpandrelConfig(NetworkConfig):
    """One of spandrel's networks.

    Attributes:
        architecture: name of a class in spandrel.architectures: SPAN, Compact, RealPLKSR, SwinIR …
        scale: how many times larger x_h is; the class's own argument for it follows.
        options: keyword arguments of the class; what is left out has the class's default.
    """

    architecture: str = "SPAN"
    scale: int = 4
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("networks.scale", self.scale)
