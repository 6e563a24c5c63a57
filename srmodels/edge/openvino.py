"""Exports the inference path to OpenVINO's format, and runs it with OpenVINO."""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("NNCF_CI", "1")  # nncf tells Intel of each use without it

import nncf
import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srmodels.edge.graph import exported_program, tile_module
from srmodels.edge.sparing import spare_if_needed
from srmodels.edge.target import Calibration, Cost, EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork

#: The types of operations that are quantised: those that hold all weights of layers.
_PRODUCTS = {"Convolution", "MatMul"}


class OpenVinoTarget(EdgeTarget):
    """A target of one graph (`.xml`) and its weights (`.bin`); input and output are fp32.

    OpenVINO computes in the precision that it prefers for the processor: bfloat16 where the
    processor multiplies it, and fp32 elsewhere.
    """

    exact = False

    @property
    def files(self) -> tuple[str, ...]:
        return self.file, str(Path(self.file).with_suffix(".bin"))

    def load(self, path: Path, threads: int = 0) -> "OpenVinoRunner":
        try:
            return OpenVinoRunner(str(path), threads)
        except RuntimeError as error:
            raise ValueError(f"{path} is no model of OpenVINO") from error


class OpenVinoFp16(OpenVinoTarget):
    """A graph whose weights are stored in fp16."""

    file = "model_fp16.openvino.xml"

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        return _save(_convert(network, settings.tile), path)


class OpenVinoInt8(OpenVinoTarget):
    """A graph that nncf quantised: weights int8 per channel, activations int8 or uint8, and biases
    corrected for the rounding.

    If that costs too much, the layers that int8 harms most stay as they are, as few as are enough.
    """

    file = "model_int8.openvino.xml"
    quantises = True

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        calibration = settings.calibration
        assert calibration is not None
        nncf.set_log_level(logging.ERROR)
        module = tile_module(network, settings.tile)
        made: Mapping[str, str] = {}

        def cost(spared: Sequence[str]) -> Cost:
            nonlocal made
            # nncf changes the model that it is given.
            made = _save(
                _quantised(_convert(network, settings.tile), module, spared, calibration), path
            )
            return calibration.cost(OpenVinoRunner(str(path)))

        spared = spare_if_needed(module, cost, calibration)
        written = ov.Core().read_model(str(path))
        if not any(operation.get_type_name() == "FakeQuantize" for operation in written.get_ops()):
            raise ValueError("int8 costs too much in each of its layers, so none would be in int8")
        return {
            **made,
            "nncf": version("nncf"),
            "calibration": f"{len(calibration.images)} images",
            "layers in fp32": ", ".join(spared) or "none",
        }


class OpenVinoRunner(Runner):
    """A compiled model that runs on the CPU.

    Args:
        model: a model of OpenVINO, or the path of its graph.

    Raises:
        RuntimeError: the file is no graph of OpenVINO.
    """

    def __init__(self, model: Any, threads: int = 0) -> None:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.compiled = ov.Core().compile_model(model, "CPU", settings)

    @property
    def precision(self) -> str:
        """The precision that it computes in, such as f32 or bf16."""
        return str(self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string())

    @cached_property
    def _request(self) -> Any:
        return self.compiled.create_infer_request()

    def run(self, x_l: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self._request.infer([x_l.numpy()])[0]))


def _convert(network: SRNetwork, tile: int) -> Any:
    model = ov.convert_model(exported_program(network, tile))
    model.reshape([1, 3, tile, tile])
    model.inputs[0].get_tensor().set_names({"x_l"})
    model.outputs[0].get_tensor().set_names({"x_h"})
    return model


def _quantised(
    model: Any, module: nn.Module, spared: Sequence[str], calibration: Calibration
) -> Any:
    names = _operations(model, [module.get_submodule(name) for name in spared])
    # Sums would be rounded too, and the last one is the image.
    others = sorted({operation.get_type_name() for operation in model.get_ops()} - _PRODUCTS)
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset([image.numpy() for image in calibration.images]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration.images),
            ignored_scope=nncf.IgnoredScope(names=names, types=others, validate=False),
        )


def _operations(model: Any, layers: Sequence[nn.Module]) -> list[str]:
    """Returns the names of the operations that multiply by the weights of these layers."""
    weights = {_digest(cast(Tensor, layer.weight).detach().numpy()) for layer in layers}
    return [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() in _PRODUCTS
        if (constant := _constant(operation)) is not None and _digest(constant) in weights
    ]


def _constant(operation: Any) -> NDArray[Any] | None:
    source = operation.input_value(1).get_node()
    return source.data if source.get_type_name() == "Constant" else None


def _digest(values: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()


def _save(model: Any, path: Path) -> Mapping[str, str]:
    ov.save_model(model, str(path), compress_to_fp16=True)
    return {
        "torch": version("torch"),
        "openvino": version("openvino"),
        "computed here in": OpenVinoRunner(str(path)).precision,
    }
