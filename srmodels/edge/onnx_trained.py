"""Writes the ranges and weights that quantisation-aware training found into an ONNX graph."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.compression.fake_quantisation import (
    WEIGHT_LEVELS,
    RoundingConv2d,
    RoundingLinear,
    rounding_layers,
    weight_steps,
)
from srmodels.edge.graph import tile_module
from srmodels.edge.onnx import export_graph
from srmodels.edge.onnx_sharing import unshare
from srmodels.edge.target import ExportSettings
from srmodels.network import SRNetwork

#: The first opset in which activations may have 16 bits.
_OPSET_16_BITS = 21


def export_trained(network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
    """Writes the graph of a quantised network: QDQ with the network's own ranges.

    It computes what the network computes inside `fake_quantisation.rounding`, up to the rounding of
    values that lie halfway.

    Returns:
        how it was made, for its evidence.
    """
    module = copy.deepcopy(tile_module(network, settings.tile))
    layers = rounding_layers(module)
    bits = {layer.input_range.bits for layer in layers.values()}
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, _Quantised(layer))
    opset = max(settings.opset, _OPSET_16_BITS) if bits == {16} else settings.opset
    made = export_graph(module, path, ExportSettings(settings.tile, opset))
    unshare(path)
    return {**made, "ranges": "trained", "layers in int8": str(len(layers))}


class _Quantised(nn.Module):
    """A layer with integer weights, as ONNX's QuantizeLinear and DequantizeLinear describe it. It
    is made to be exported; elsewhere it computes nothing useful."""

    def __init__(self, layer: RoundingConv2d | RoundingLinear) -> None:
        super().__init__()
        self.convolution = layer if isinstance(layer, RoundingConv2d) else None
        step, zero = layer.input_range.steps()
        steps = weight_steps(layer.weight)
        levels = (layer.weight.float() / steps.view(-1, *[1] * (layer.weight.dim() - 1))).round()
        kind = torch.uint8 if layer.input_range.bits == 8 else torch.uint16
        self.register_buffer("step", step.reshape(()).detach())
        self.register_buffer("zero", zero.reshape(()).detach().to(kind))
        self.register_buffer("steps", steps.detach())
        self.register_buffer("zeros", torch.zeros_like(steps, dtype=torch.int8))
        levels = levels.clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS)
        self.register_buffer("levels", levels.detach().to(torch.int8))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    step: Tensor
    zero: Tensor
    steps: Tensor
    zeros: Tensor
    levels: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        x = _ops("QuantizeLinear", (x, self.step, self.zero), self.zero.dtype, x.shape)
        x = _ops("DequantizeLinear", (x, self.step, self.zero), torch.float32, x.shape)
        weights = (self.levels, self.steps, self.zeros)
        weight = _ops("DequantizeLinear", weights, torch.float32, self.levels.shape, axis=0)
        if self.convolution is None:
            return F.linear(x, weight, self.bias)
        y: Tensor = self.convolution._conv_forward(x, weight, self.bias)
        return y


def _ops(
    name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, shape: torch.Size, **attributes: int
) -> Tensor:
    attrs: dict[str, Any] = dict(attributes)
    return torch.onnx.ops.symbolic(name, inputs, attrs, dtype=dtype, shape=shape)
