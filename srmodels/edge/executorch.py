"""Exports the inference path to ExecuTorch for phones' CPUs (XNNPACK), and runs it there."""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.schema import DelegateCall, KernelCall
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime, Verification
from torch import Tensor
from torch.export import ExportedProgram
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from srmodels.edge.graph import example, exported_program, tile_module
from srmodels.edge.sparing import spare_if_needed
from srmodels.edge.target import Cost, Delegation, EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork


class ExecuTorchTarget(EdgeTarget):
    """A target of one program (`.pte`) whose products XNNPACK computes; input and output are fp32.
    What XNNPACK does not know runs on ExecuTorch's portable kernels."""

    def delegations(self, path: Path) -> Mapping[str, Delegation]:
        """Returns what XNNPACK took. Its parts are written as a whole, so the number of nodes in
        them is not known."""
        program = deserialize_pte_binary(path.read_bytes()).program
        [plan] = program.execution_plan
        steps = [step.instr_args for chain in plan.chains for step in chain.instructions]
        calls = [step for step in steps if isinstance(step, KernelCall)]
        left = {plan.operators[call.op_index].name.rpartition("::")[2] for call in calls}
        parts = sum(isinstance(step, DelegateCall) for step in steps)
        return {"xnnpack": Delegation(None, len(calls), parts, tuple(sorted(left)))}

    def load(self, path: Path, threads: int = 0) -> "ExecuTorchRunner":
        return ExecuTorchRunner(path, threads)


class ExecuTorchFp32(ExecuTorchTarget):
    """A program in fp32."""

    file = "model_fp32.pte"

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        return _lower(exported_program(network, settings.tile), path)


class ExecuTorchInt8(ExecuTorchTarget):
    """A program with products in int8: weights per channel, activations between the extremes that
    the calibration images give.

    If that costs too much, the layers that int8 harms most stay in fp32, as few as are enough.
    """

    file = "model_int8.pte"
    exact = False
    quantises = True

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        calibration = settings.calibration
        assert calibration is not None
        program = exported_program(network, settings.tile)
        made: Mapping[str, str] = {}

        def cost(spared: Sequence[str]) -> Cost:
            nonlocal made
            made = _lower(_quantised(program, calibration.images, spared), path)
            return calibration.cost(ExecuTorchRunner(path))

        spared = spare_if_needed(tile_module(network, settings.tile), cost, calibration)
        return {
            **made,
            "torchao": version("torchao"),
            "calibration": f"{len(calibration.images)} images",
            "layers in fp32": ", ".join(spared) or "none",
        }


class ExecuTorchRunner(Runner):
    """A loaded program that runs on the CPU.

    Args:
        threads: 0, or the number of threads that all loaded programs use from now on.

    Raises:
        ValueError: the file is no program, or it needs an operator that this ExecuTorch lacks.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        if threads:
            portable_lib._unsafe_reset_threadpool(threads)
        try:
            # The program has to live as long as its method.
            self.program = Runtime.get().load_program(path, verification=Verification.Minimal)
            self.method = self.program.load_method("forward")
        except RuntimeError as error:
            raise ValueError(
                f"{path} is no program that ExecuTorch {version('executorch')} can run"
            ) from error

    def run(self, x_l: Tensor) -> Tensor:
        # The method uses its output's memory again.
        x_h: Tensor = self.method.execute([x_l.contiguous()])[0].clone()
        return x_h


def _quantised(
    program: ExportedProgram, images: Sequence[Tensor], spared: Sequence[str]
) -> ExportedProgram:
    config = get_symmetric_quantization_config(is_per_channel=True)
    left = set(spared)
    quantizer = XNNPACKQuantizer().set_global(config)
    tile = images[0].shape[-1]
    quantizer.set_filter_function(
        lambda node: not left & set(_modules(node)) and not _is_image(node, tile)
    )
    with _quiet(), torch.no_grad():
        prepared = prepare_pt2e(copy.deepcopy(program).module(), quantizer)
        for image in images:
            prepared(image)
        return torch.export.export(convert_pt2e(prepared), example(images[0].shape[-1]))


def _modules(node: torch.fx.Node) -> Iterator[str]:
    """Yields the names of the modules that a node of a graph is part of."""
    for path, _ in node.meta.get("nn_module_stack", {}).values():
        yield path.removeprefix("L['self'].")


def _is_image(node: torch.fx.Node, tile: int) -> bool:
    """Returns True for an operation at the resolution of the result: its rounding would be seen."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] > tile


def _lower(program: ExportedProgram, path: Path) -> Mapping[str, str]:
    with _quiet():
        edge = to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        path.write_bytes(edge.to_executorch().buffer)
    return {"torch": version("torch"), "executorch": version("executorch")}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
