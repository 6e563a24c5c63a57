"""The module that an export traces: a network's inference path for one tile size."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.export import ExportedProgram

from srmodels.network import SRNetwork


def tile_module(network: SRNetwork, tile: int) -> nn.Module:
    """Returns the module to trace for one tile size, in eval mode.

    Raises:
        ValueError: the network cannot take such tiles.
    """
    if tile % network.size_multiple:
        raise ValueError(f"the tile ({tile}) must be a multiple of {network.size_multiple}.")
    return network.eval().for_tile(tile)


def example(tile: int) -> tuple[Tensor]:
    """Returns the arguments to trace with: one black tile `[1, 3, tile, tile]`."""
    return (torch.zeros(1, 3, tile, tile),)


def exported_program(network: SRNetwork, tile: int, without: Sequence[Any] = ()) -> ExportedProgram:
    """Returns the graph of PyTorch's operators, with weights that lie contiguously.

    Args:
        without: operators that a runtime does not know; the graph has simpler ones in their place.

    Raises:
        ValueError: the network cannot take such tiles.
    """
    # Networks lie channels-last for the CPU, which is an order that exporters stumble over.
    module = copy.deepcopy(tile_module(network, tile))
    for tensor in (*module.parameters(), *module.buffers()):
        # Not `contiguous`: it keeps the order of a 1x1 convolution, which is both at once.
        tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
    with torch.no_grad():
        program = torch.export.export(module, example(tile))
        if not without:
            return program
        known: dict[Any, Any] = {name: _OWN[name] for name in without if name in _OWN}
        others = [name for name in without if name not in _OWN]
        simpler: ExportedProgram = program.run_decompositions(get_decompositions(others) | known)
        return simpler


def _add(x: Tensor, y: Tensor, alpha: float = 1) -> Any:
    """Returns x + alpha·y by operators that have no `alpha`; leaves a plain sum as it is."""
    return NotImplemented if alpha == 1 else x + alpha * y


#: Simpler operators for those that PyTorch keeps.
_OWN = {torch.ops.aten.add.Tensor: _add}
