"""Exports the parts of an inference path to ONNX graphs of their own, and runs them in turn."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from srmodels.edge.graph import example, tile_module
from srmodels.edge.onnx import OnnxRunner, export_graph, store_exactly
from srmodels.edge.onnx_delegates import delegations
from srmodels.edge.target import Delegation, EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork

#: The parts in the order in which they run (`SRNetwork.parts_for_tile`).
_PARTS = ("encoder", "unet", "decoder")


class OnnxFp32Parts(EdgeTarget):
    """Edge-SD-SR's encoder, UNet and decoder in fp32, a graph and a file each. So a phone needs the
    memory of one at a time. The outputs of one are inputs of the next, by name."""

    file = f"model_fp32_{_PARTS[0]}.onnx"

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.file.replace(_PARTS[0], part) for part in _PARTS)

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        tile_module(network, settings.tile)  # refuses tiles that the network cannot take
        parts = network.parts_for_tile(settings.tile)
        if tuple(parts) != _PARTS:
            raise ValueError("these networks are one part; Edge-SD-SR has three")
        made: Mapping[str, str] = {}
        known: dict[str, Tensor] = {"x_l": example(settings.tile)[0]}
        for file, part in zip(self.files, parts.values(), strict=True):
            inputs = {name: known[name] for name in part.inputs}
            place = path.with_name(file)
            made = export_graph(
                part.module.eval(), place, settings, inputs=inputs, outputs=part.outputs
            )
            store_exactly(place)
            with torch.no_grad():
                found = part.module(*inputs.values())
            known |= zip(part.outputs, found if isinstance(found, tuple) else (found,), strict=True)
        return made

    def delegations(self, path: Path) -> Mapping[str, Delegation]:
        found = [delegations(path.with_name(file)) for file in self.files]
        return {name: Delegation.together(each[name] for each in found) for name in found[0]}

    def load(self, path: Path, threads: int = 0) -> "OnnxPartsRunner":
        return OnnxPartsRunner([path.with_name(file) for file in self.files], threads)


class OnnxPartsRunner(Runner):
    """Loaded graphs that run one after the other.

    Raises:
        ValueError: a file is no graph, or it needs an operator that this ONNX Runtime lacks.
    """

    def __init__(self, paths: list[Path], threads: int = 0) -> None:
        self.graphs = [OnnxRunner(path, threads) for path in paths]

    def run(self, x_l: Tensor) -> Tensor:
        known = {"x_l": x_l}
        for graph in self.graphs:
            known |= graph.outputs_of(known)
        return known["x_h"]
