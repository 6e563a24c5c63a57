"""Builds networks and stages from a configuration: with weights, or with shapes alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipelines.config.schema import Config
from pipelines.errors import UserError
from srmodels.network import SRNetwork, weights_of
from srmodels.stage import Stage
from srmodels.system import load_system


def build_network(config: Config, weights: Any, *, fused: bool = True) -> SRNetwork:
    """Builds a system's network with the weights that ship, fused, in eval mode.

    Its weights lie in memory as convolutions on CPUs want them: it is about a tenth faster so.

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


def build_trained(config: Config, weights: Mapping[str, Tensor]) -> SRNetwork:
    """Builds the network that ships from all weights of a training run."""
    names = network_on_meta(config.system, config.networks).inference_modules()
    return build_network(config, weights_of(names, weights), fused=False)


def network_on_meta(system: str, networks: Any) -> SRNetwork:
    """Returns a system's networks with shapes, and without values."""
    with torch.device("meta"):
        return load_system(system).build(networks)


def stage_on_meta(config: Config, name: str) -> Stage:
    """Returns a stage whose weights have shapes and no values; without its teacher."""
    system, stage = load_system(config.system), config.stages[name]
    network = network_on_meta(config.system, stage.networks)
    with torch.device("meta"):
        return system.stage(stage.kind)(network, stage.options).train()
