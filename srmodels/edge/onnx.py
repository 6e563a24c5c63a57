"""Exports the inference path at a fixed tile size to ONNX, and runs it with ONNX Runtime."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srmodels.edge.target import EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork


class OnnxFp32(EdgeTarget):
    """A target that writes one fp32 graph into one file.

    The graph maps `x_l` `[1, 3, tile, tile]` to `x_h` `[1, 3, scale·tile, scale·tile]`, both in
    [0, 1].
    """

    file = "model_fp32.onnx"

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> None:
        tile = settings.tile
        if tile % network.size_multiple:
            raise ValueError(f"the tile ({tile}) must be a multiple of {network.size_multiple}.")
        network.eval()
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.for_tile(tile),
                (torch.zeros(1, 3, tile, tile),),
                str(path),
                dynamo=True,
                external_data=False,
                opset_version=settings.opset,
                input_names=["x_l"],
                output_names=["x_h"],
                verbose=False,
            )

    def load(self, path: Path, threads: int = 0) -> "OnnxRunner":
        return OnnxRunner(path, threads)


class OnnxRunner(Runner):
    """A loaded ONNX file that runs on the CPU."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Without this, threads spin after a run, and take the cores from other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # An arena would keep the memory of a run for ever.
        options.enable_cpu_mem_arena = False
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def run(self, x_l: Tensor) -> Tensor:
        (x_h,) = self.session.run(None, {"x_l": x_l.numpy()})
        return torch.from_numpy(np.asarray(x_h))
