"""Counts what a configuration's networks cost, before anything is built."""

from typing import Any

from pipelines.models.build import network_on_meta
from srmodels import cost
from srmodels.cost import NetworkCost


def network_cost(system: str, networks: Any, tile: int) -> NetworkCost:
    """Returns the parameters and GMACs of the networks that ship, for an LR tile of `tile` px."""
    return cost.network_cost(network_on_meta(system, networks), tile)
