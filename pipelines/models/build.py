"""Builds networks and stages from a configuration: with weights, or with shapes alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipelines.config.schema import Config
from pipelines.errors import UserError
from srmodels.compression.structure import NetworkConfig
from srmodels.meta import on_meta
from srmodels.network import SRNetwork, weights_of
from srmodels.stage import Stage
from srmodels.system import load_system


def build_network(config: Config, weights: Any, *, fused: bool = True) -> SRNetwork:
    """Builds a system's networks with the weights that ship; they are fused and in eval mode.

    The weights are channels-last, which makes inference about a tenth faster on CPUs.

    Args:
        weights: tensors by their names in `SRNetwork.inference_state_dict`.
        fused: True for weights of fused networks, False for weights of trained ones.

    Raises:
        UserError: the weights do not fit the networks.
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
    """Builds the networks that ship from all weights of a training run, as `build_network` does.

    Raises:
        UserError: the weights do not fit the networks.
    """
    names = network_on_meta(config.system, config.networks).inference_modules()
    return build_network(config, weights_of(names, weights), fused=False)


def network_on_meta(system: str, networks: Any) -> SRNetwork:
    """Returns a system's networks on the meta device: with shapes and without values."""
    with on_meta():
        return load_system(system).build(networks)


def with_structure(config: Config, name: str, structure: Mapping[str, Any]) -> Config:
    """Returns a configuration whose stage `name` has networks that compression changed so.

    Args:
        structure: as `srmodels.compression.structure.structure_of` returns it.
    """
    stage = config.stages[name]
    if not isinstance(stage.networks, NetworkConfig) or not any(structure.values()):
        return config
    changed = replace(stage, networks=replace(stage.networks, **structure))
    return replace(config, stages=config.stages | {name: changed})


def stage_on_meta(config: Config, name: str) -> Stage:
    """Returns a stage on the meta device, with its own networks and without its teacher."""
    system, stage = load_system(config.system), config.stages[name]
    network = network_on_meta(config.system, stage.networks)
    with on_meta():
        return system.stage(stage.kind)(network, stage.options).train()
