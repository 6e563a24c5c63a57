"""Keeps what compression changes of a network's structure, and builds it again from its numbers.

A system's own numbers describe its networks as they were designed. Pruning makes some layers
narrower, and quantisation gives layers ranges. Both are a few numbers on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from srmodels.checks import check_one_of
from srmodels.compression.fake_quantisation import QUANTISED, quantise_layers
from srmodels.layers import ReparameterisedConv
from srmodels.network import SRNetwork

#: Layers that have a width: channels in and out, or the one number of channels.
_LAYERS = (nn.Conv2d, nn.Linear, ReparameterisedConv, nn.PReLU, nn.BatchNorm2d, nn.GroupNorm)


@dataclass(kw_only=True)
class NetworkConfig:
    """The numbers that any system's `networks` may hold beside its own. Stages write them.

    widths: channels of the layers that a stage of the kind `prune` narrowed, by name: those that go
        in and those that come out, or the one number of a norm or a PReLU.

    quantised: precision of products that a stage of the kind `quantize` trains for: "" (none), int8
        or a16w8 (activations of 16 bits).
    """

    widths: dict[str, list[int]] = field(default_factory=dict)
    quantised: str = ""

    def __post_init__(self) -> None:
        check_one_of("networks.quantised", self.quantised, ("", *QUANTISED))


#: The names of NetworkConfig's own numbers.
STRUCTURE = tuple(f.name for f in fields(NetworkConfig))


def structure_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what compression changed, of the values of a system's configuration by name."""
    return {name: values[name] for name in STRUCTURE if name in values}


def own_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a system's own numbers, without what compression changed."""
    return {name: value for name, value in values.items() if name not in STRUCTURE}


def apply_structure(network: SRNetwork, config: Any) -> None:
    """Narrows and quantises new networks, as a configuration says. Layers that change have
    arbitrary weights then.

    Args:
        config: a system's configuration; one that is no NetworkConfig changes nothing.

    Raises:
        ValueError: `widths` names no layer of these networks, or a width that it cannot have.
    """
    if not isinstance(config, NetworkConfig):
        return
    set_widths(network, config.widths)
    if config.quantised:
        quantise_layers(network.inference_modules().values(), config.quantised)
    network.compressible = True
    network.widths, network.quantised = dict(config.widths), config.quantised


def widths_of(network: nn.Module) -> dict[str, list[int]]:
    """Returns the widths of all layers, by name; see `NetworkConfig.widths`."""
    found, inside = {}, set()
    for name, module in network.named_modules():
        if name.rpartition(".")[0] in inside:
            inside.add(name)
            continue
        if isinstance(module, _LAYERS):
            found[name] = _width(module)
        if isinstance(module, ReparameterisedConv):
            inside.add(name)
    return found


def changed_widths(before: nn.Module, after: nn.Module) -> dict[str, list[int]]:
    """Returns the widths of the layers of `after` that differ from those of `before`, by name."""
    old = widths_of(before)
    return {name: width for name, width in widths_of(after).items() if width != old[name]}


def set_widths(network: nn.Module, widths: Mapping[str, list[int]]) -> None:
    """Puts new layers of these widths, with arbitrary weights, in the place of those that have
    others.

    Raises:
        ValueError: a name is that of no layer, or a layer cannot have such a width.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, _LAYERS)}
    for name, width in widths.items():
        if name not in layers:
            raise ValueError(
                f"networks.widths names '{name}', which is no layer of these networks."
            )
        layer = layers[name]
        if len(width) != len(_width(layer)) or min(width) < 1:
            raise ValueError(
                f"networks.widths.{name} is {width}, but {type(layer).__name__} has "
                f"{len(_width(layer))} width(s) of at least 1."
            )
        if width != _width(layer):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _resized(layer, width))


def _width(layer: nn.Module) -> list[int]:
    match layer:
        case nn.Conv2d() | ReparameterisedConv():
            return [layer.in_channels, layer.out_channels]
        case nn.Linear():
            return [layer.in_features, layer.out_features]
        case nn.PReLU():
            return [layer.num_parameters]
        case nn.BatchNorm2d():
            return [layer.num_features]
        case nn.GroupNorm():
            return [layer.num_channels]
    raise AssertionError(f"{type(layer).__name__} has no width")


def _resized(layer: nn.Module, width: list[int]) -> nn.Module:
    """Returns a new layer like this one, of another width, on its device."""
    weight = next(layer.parameters())
    with torch.device(weight.device):
        return _new(layer, width).to(weight.dtype)


def _new(layer: nn.Module, width: list[int]) -> nn.Module:
    first, last = width[0], width[-1]
    match layer:
        case ReparameterisedConv():
            return type(layer)(first, last, layer.stride, layer.padding, layer.identity)
        case nn.Conv2d():
            depthwise = layer.groups == layer.in_channels
            return nn.Conv2d(
                first,
                last,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                first if depthwise else layer.groups,
                layer.bias is not None,
                layer.padding_mode,
            )
        case nn.Linear():
            return nn.Linear(first, last, layer.bias is not None)
        case nn.PReLU():
            return nn.PReLU(first)
        case nn.BatchNorm2d():
            return nn.BatchNorm2d(first, layer.eps, layer.momentum, layer.affine)
        case nn.GroupNorm():
            return nn.GroupNorm(layer.num_groups, first, layer.eps, layer.affine)
    raise AssertionError(f"{type(layer).__name__} has no width")
