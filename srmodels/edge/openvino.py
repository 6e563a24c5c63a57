"""Exports the inference path to OpenVINO's format, and runs it with OpenVINO."""

import logging
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("NNCF_CI", "1")  # nncf tells Intel of each use without it

import nncf
import numpy as np
import openvino as ov
import torch
from torch import Tensor

from srmodels.edge.graph import exported_program
from srmodels.edge.target import Calibration, EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork


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

    file = "model_fp16.xml"

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        return _save(_convert(network, settings.tile), path)


class OpenVinoInt8(OpenVinoTarget):
    """A graph that nncf quantised: weights int8 per channel, activations int8 or uint8.

    Where that costs too much, nncf finds the operations whose rounding costs the most, and gives
    back their precision until the loss is small enough.
    """

    file = "model_int8.xml"
    quantises = True

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        calibration = settings.calibration
        assert calibration is not None
        nncf.set_log_level(logging.ERROR)
        images = nncf.Dataset([image.numpy() for image in calibration.images])
        model = nncf.quantize(
            _convert(network, settings.tile),
            images,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration.images),
        )
        loss = calibration.loss(OpenVinoRunner(model))
        calibration.on_trial(f"all products in int8: {loss:+.3f} dB lost")
        spared = "none"
        if loss > calibration.max_loss:
            model = _spare(_convert(network, settings.tile), images, calibration)
            spared = "those that nncf found to cost the most"
        made = _save(model, path)
        return {
            **made,
            "nncf": version("nncf"),
            "calibration": f"{len(calibration.images)} images",
            "layers in fp32": spared,
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

    @classmethod
    def of(cls, compiled: Any) -> "OpenVinoRunner":
        """Returns the runner of a model that is compiled already."""
        self = cls.__new__(cls)
        self.compiled = compiled
        return self

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


def _spare(model: Any, images: Any, calibration: Calibration) -> Any:
    """Returns the model with as many operations in int8 as `calibration.max_loss` allows."""
    calibration.on_trial("that costs too much: nncf spares each operation in turn")

    def score(compiled: Any, _: Iterable[Any]) -> tuple[float, None]:
        # nncf divides by the first score, which is PyTorch's own: its loss is 0.
        return 100 - calibration.loss(OpenVinoRunner.of(compiled)), None

    return nncf.quantize_with_accuracy_control(
        model,
        images,
        nncf.Dataset([0]),  # `score` has the images itself
        validation_fn=score,
        max_drop=calibration.max_loss,
        drop_type=nncf.DropType.ABSOLUTE,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration.images),
    )


def _save(model: Any, path: Path) -> Mapping[str, str]:
    ov.save_model(model, str(path), compress_to_fp16=True)
    return {
        "torch": version("torch"),
        "openvino": version("openvino"),
        "computed here in": OpenVinoRunner(str(path)).precision,
    }
