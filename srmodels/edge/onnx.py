"""Exports the inference path at a fixed tile size to ONNX, and runs it with ONNX Runtime."""

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from srmodels.edge.graph import example, tile_module
from srmodels.edge.onnx_delegates import delegations
from srmodels.edge.target import Delegation, EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork

#: Smaller weights are not worth a cast of their own, number of values.
_WORTH_A_CAST = 1024


class OnnxTarget(EdgeTarget):
    """A target of one ONNX graph in one file, which ONNX Runtime runs.

    The graph maps `x_l` `[1, 3, tile, tile]` to `x_h` `[1, 3, scale·tile, scale·tile]`, both in
    [0, 1] and in fp32.
    """

    def delegations(self, path: Path) -> Mapping[str, Delegation]:
        return delegations(path)

    def load(self, path: Path, threads: int = 0) -> "OnnxRunner":
        return OnnxRunner(path, threads)


class OnnxFp32(OnnxTarget):
    """A graph in fp32. Weights that fp16 holds exactly are stored so, at half the size; the runtime
    widens them when it loads the file."""

    file = "model_fp32.onnx"

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        made = export_graph(tile_module(network, settings.tile), path, settings)
        store_exactly(path)
        return made


class OnnxFp32Dynamic(OnnxTarget):
    """A graph as that of OnnxFp32, for any height and width that are multiples of the network's."""

    file = "model_fp32_dynamic.onnx"
    dynamic = True

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        module = tile_module(network, settings.tile)
        if module is not network:
            raise ValueError("these networks are exported for one tile size alone")
        size = torch.export.Dim.DYNAMIC
        made = export_graph(module, path, settings, ({2: size, 3: size},))
        store_exactly(path)
        return made


class OnnxFp16(OnnxTarget):
    """A graph whose weights and activations are fp16; its input and output stay fp32."""

    file = "model_fp16.onnx"
    exact = False

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        half = copy.deepcopy(tile_module(network, settings.tile)).half()
        return export_graph(_Half(half), path, settings)


class OnnxRunner(Runner):
    """A loaded ONNX file that runs on the CPU.

    Raises:
        ValueError: the file is no graph, or it needs an operator that this ONNX Runtime lacks.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Without this, a processor of x86 without VNNI cuts sums of int8 products off at 16 bits,
        # which no phone does. Such a processor then refuses graphs whose layers share int8 tensors:
        # see onnx_sharing.py.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what fails raises, too
        # Without this, threads spin after a run, and take the cores from other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # An arena would keep the memory of a run for ever.
        options.enable_cpu_mem_arena = False
        providers = ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers)
        except Exception as error:  # Each of its errors is a class of its own.
            raise ValueError(
                f"{path} is no graph that ONNX Runtime {onnxruntime.__version__} can run"
            ) from error

    def run(self, x_l: Tensor) -> Tensor:
        (x_h,) = self.session.run(None, {"x_l": x_l.numpy()})
        return torch.from_numpy(np.asarray(x_h))

    def outputs_of(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the graph's outputs by name.

        Args:
            known: tensors by name, the graph's inputs among them.
        """
        inputs = {each.name: known[each.name].numpy() for each in self.session.get_inputs()}
        names = [each.name for each in self.session.get_outputs()]
        results = map(np.asarray, self.session.run(names, inputs))
        return dict(zip(names, map(torch.from_numpy, results), strict=True))


class _Half(nn.Module):
    """A module in fp16 with an input and an output in fp32."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.inner(x_l.half()).float()
        return x


def export_graph(
    module: nn.Module,
    path: Path,
    settings: ExportSettings,
    dynamic_shapes: Any = None,
    inputs: Mapping[str, Tensor] | None = None,
    outputs: Sequence[str] = ("x_h",),
) -> Mapping[str, str]:
    """Writes a module's graph, from `x_l` to `x_h`, with its weights in the same file.

    Args:
        module: as `tile_module` returns it.
        dynamic_shapes: sides that may have any length, as torch.onnx.export takes them.
        inputs: examples by name, for a module that takes others than `x_l`.
        outputs: names of what the module returns.

    Returns:
        the versions of the tools, by name.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    inputs = inputs or {"x_l": example(settings.tile)[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=True,
            external_data=False,
            opset_version=settings.opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    _forget_the_code(path)
    return {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}


def _forget_the_code(path: Path) -> None:
    """Removes, from every node, the places in the source code that it was made from: they name the
    folders of this machine, and change the file whenever code moves."""
    model = onnx.load(path)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, model.graph):
        del part.metadata_props[:]
    onnx.save(model, path)


def store_exactly(path: Path) -> None:
    """Stores the weights that fp16 holds exactly in fp16, before a cast to fp32."""
    model = onnx.load(path)
    graph, casts, kept = model.graph, [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if (
            weight.data_type != onnx.TensorProto.FLOAT
            or values.size < _WORTH_A_CAST
            or not np.array_equal(halves.astype(np.float32), values)
        ):
            kept.append(weight)
            continue
        stored = f"{weight.name}_fp16"
        kept.append(numpy_helper.from_array(halves, stored))
        to = onnx.TensorProto.FLOAT
        casts.append(
            helper.make_node("Cast", [stored], [weight.name], f"widen_{weight.name}", to=to)
        )
    nodes = [*casts, *graph.node]
    for field, values in ((graph.initializer, kept), (graph.node, nodes)):
        del field[:]
        field.extend(values)
    onnx.save(model, path)
