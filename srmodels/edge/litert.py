"""Exports the inference path to LiteRT (TensorFlow Lite's successor), and runs it there.

litert-torch has an environment of its own, whose interpreter `$SRMILL_LITERT_PYTHON` names. What it
makes runs here, with the small package ai-edge-litert.
"""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor

from srmodels.edge import litert_tools
from srmodels.edge.graph import exported_program
from srmodels.edge.process import run_command
from srmodels.edge.target import EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork

#: Names the interpreter that has litert-torch.
PYTHON = "SRMILL_LITERT_PYTHON"
#: Recipes of ai_edge_quantizer, in the order of trial.
_STATIC, _DYNAMIC = "static_wi8_ai8", "dynamic_wi8_afp32"


class LiteRtTarget(EdgeTarget):
    """A target of one model (`.tflite`), `[1, 3, tile, tile]` to `[1, 3, scale·tile, scale·tile]`,
    whose products LiteRT gives to XNNPACK on a CPU."""

    def load(self, path: Path, threads: int = 0) -> "LiteRtRunner":
        return LiteRtRunner(path, threads)


class LiteRtFp32(LiteRtTarget):
    """A model in fp32."""

    file = "model_fp32.tflite"

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        return _convert(network, path, settings)


class LiteRtInt8(LiteRtTarget):
    """A model in int8: weights and activations where that costs little, else weights alone, and
    activations that are rounded at each run."""

    file = "model_int8.tflite"
    exact = False
    quantises = True

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        calibration = settings.calibration
        assert calibration is not None
        with TemporaryDirectory() as folder:
            plain, images = Path(folder) / "plain.tflite", Path(folder) / "images.npy"
            made = _convert(network, plain, settings)
            np.save(images, torch.cat(list(calibration.images)).contiguous().numpy())
            for recipe, arguments in ((_STATIC, [images]), (_DYNAMIC, [])):
                _run_tools("quantise", plain, path, recipe, *arguments)
                cost = calibration.cost(LiteRtRunner(path))
                calibration.on_trial(f"{recipe}: {cost}")
                if cost.is_small:
                    break
        return {**made, "recipe": recipe, "calibration": f"{len(calibration.images)} images"}


class LiteRtRunner(Runner):
    """A loaded model that runs on the CPU.

    Raises:
        ValueError: the file is no model of LiteRT.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            self.model = Interpreter(str(path), num_threads=threads or None)
            self.model.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is no model of LiteRT") from error
        [self.input], [self.output] = (
            self.model.get_input_details(),
            self.model.get_output_details(),
        )

    def run(self, x_l: Tensor) -> Tensor:
        x = np.ascontiguousarray(x_l.numpy())
        if self.input["dtype"] == np.int8:
            scale, zero = self.input["quantization"]
            x = np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)
        self.model.set_tensor(self.input["index"], x)
        self.model.invoke()
        y = self.model.get_tensor(self.output["index"])
        if self.output["dtype"] == np.int8:
            scale, zero = self.output["quantization"]
            y = (y.astype(np.float32) - zero) * np.float32(scale)
        return torch.from_numpy(y)


def _convert(network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
    with TemporaryDirectory() as folder:
        program = Path(folder) / "model.pt2"
        graph = exported_program(network, settings.tile, without=[torch.ops.aten.add.Tensor])
        torch.export.save(graph, program)
        versions = _run_tools("convert", program, path)
    return {
        "torch": version("torch"),
        "ai-edge-litert": version("ai-edge-litert"),
        "litert-torch": versions[0],
        "ai-edge-quantizer": versions[1],
    }


def _run_tools(*arguments: object) -> Sequence[str]:
    """Runs `litert_tools` in its environment; returns the versions that it prints.

    Raises:
        ValueError: there is no such environment, or the tools fail.
    """
    python = os.environ.get(PYTHON)
    if not python or not Path(python).is_file():
        raise ValueError(
            f"litert-torch needs an environment of its own: run make litert, and set {PYTHON} "
            "as it says"
        )
    try:
        told = run_command([python, litert_tools.__file__, *arguments])
    except ValueError as error:
        raise ValueError(f"litert-torch cannot convert it ({error})") from None
    return told.strip().splitlines()[-1].split()
