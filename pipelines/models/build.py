"""Networks and stages from a configuration: with weights, or with shapes alone."""

from typing import Any

import torch

from pipelines.config.schema import Config
from pipelines.errors import UserError
from srmodels.network import SRNetwork
from srmodels.stage import Stage
from srmodels.system import load_system


def build_network(config: Config, weights: Any, *, fused: bool = True) -> SRNetwork:
    """A system's network with the weights that ship, fused, in eval mode; they lie in memory as
    convolutions on CPUs want them, which makes it about a tenth faster.

    Args:
        fused: whether these are the weights of fused networks; else of those that were trained.

    Raises:
        UserError: the weights are of other networks.
    """
    network = load_system(config.system).build(config.networks)
    if fused:
        network.fuse()
    try:
        network.load_inference_state_dict(weights)
    except ValueError as error:
        raise UserError(f"{error} Another SRMill wrote them: train and export again.") from None
    return network.fuse().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def network_on_meta(config: Config) -> SRNetwork:
    """Returns the recipe's networks with shapes, and without values."""
    with torch.device("meta"):
        return load_system(config.system).build(config.networks)


def stage_on_meta(config: Config, name: str) -> Stage:
    """A stage whose weights have shapes but no values."""
    system, stage = load_system(config.system), config.stages[name]
    network = network_on_meta(config)
    with torch.device("meta"):
        return system.stage(stage.kind)(network, stage.options).train()
