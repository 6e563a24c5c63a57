"""Exports the inference path for the NPU of a Snapdragon processor, and runs it in its simulator.

Qualcomm's compiler (QNN's backend for HTP, the Hexagon processor) comes with the package
onnxruntime-qnn. What it makes fits one kind of processor.
"""

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import onnxruntime_qnn
import torch
from torch import Tensor

from srmodels.edge.graph import tile_module
from srmodels.edge.onnx import export_graph
from srmodels.edge.process import run_module
from srmodels.edge.target import EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork


class QnnTarget(EdgeTarget):
    """A target of one ONNX graph whose only node holds a context binary: the whole network,
    compiled for the NPU, which computes in fp16. Input and output are `x_l` and `x_h` in fp32.

    Attributes:
        soc: Qualcomm's number of the processor, QNN's `soc_model`.
    """

    exact = False
    simulated = True
    most_pairs = 2  # a tile takes the simulator minutes
    soc: int

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        with TemporaryDirectory() as folder:
            graph = Path(folder) / "model.onnx"
            made = export_graph(tile_module(network, settings.tile), graph, settings)
            path.unlink(missing_ok=True)
            # A process of its own: a second compilation in one process gives other bytes.
            try:
                run_module(__name__, graph, path.resolve(), self.soc)
            except ValueError as error:
                raise ValueError(f"QNN cannot compile it ({error})") from None
        if not path.is_file():
            raise ValueError("QNN compiled nothing")
        return {
            **made,
            "onnxruntime-qnn": version("onnxruntime-qnn"),
            "soc_model": str(self.soc),
            "run by": "the NPU's simulator, not by a phone",
        }

    def load(self, path: Path, threads: int = 0) -> "QnnRunner":
        return QnnRunner(path, self.soc)


class QnnSm8550(QnnTarget):
    """For SM8550, the Snapdragon 8 Gen 2."""

    file, soc = "model_sm8550.onnx", 43


class QnnSm8650(QnnTarget):
    """For SM8650, the Snapdragon 8 Gen 3."""

    file, soc = "model_sm8650.onnx", 57


class QnnSm8750(QnnTarget):
    """For SM8750, the Snapdragon 8 Elite."""

    file, soc = "model_sm8750.onnx", 69


class QnnRunner(Runner):
    """A loaded context binary that runs in the simulator: seconds to minutes for a tile.

    Raises:
        ValueError: the file is no such graph.
    """

    def __init__(self, path: Path, soc: int) -> None:
        try:
            # Another graph would be compiled now, and would run, too.
            if {node.op_type for node in onnx.load(path).graph.node} != {"EPContext"}:
                raise ValueError("it holds no context binary")
            self.session = _session(str(path), soc, {})
        except Exception as error:  # Each of ONNX Runtime's errors is a class of its own.
            name = f"onnxruntime-qnn {version('onnxruntime-qnn')}"
            raise ValueError(f"{path} is no graph that {name} can run") from error

    def run(self, x_l: Tensor) -> Tensor:
        (x_h,) = self.session.run(None, {"x_l": x_l.numpy()})
        return torch.from_numpy(np.asarray(x_h))


@cache
def _devices() -> list[onnxruntime.OrtEpDevice]:
    """Returns QNN's devices; its library is registered once in a process."""
    name = onnxruntime_qnn.get_ep_name()
    onnxruntime.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]


def _session(
    graph: str | bytes, soc: int, config: Mapping[str, str]
) -> onnxruntime.InferenceSession:
    """Loads a graph, from a file or its content, of which no node runs anywhere but on the NPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails raises, too
    for name, value in {**config, "session.disable_cpu_ep_fallback": "1"}.items():
        options.add_session_config_entry(name, value)
    options.add_provider_for_devices(
        _devices()[:1],
        {
            "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
            "soc_model": str(soc),
            "htp_graph_finalization_optimization_mode": "3",
        },
    )
    return onnxruntime.InferenceSession(graph, options)


def _compile(graph: str, path: str, soc: str) -> None:
    """Writes a graph's context binary, within a graph of one node."""
    config = {
        "ep.context_enable": "1",
        "ep.context_file_path": path,
        "ep.context_embed_mode": "1",
    }
    try:
        # Of a file, its path would become a part of what is written.
        _session(Path(graph).read_bytes(), int(soc), config)
    except Exception as error:  # Each of ONNX Runtime's errors is a class of its own.
        Path(path).unlink(missing_ok=True)
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    _compile(*sys.argv[1:])
