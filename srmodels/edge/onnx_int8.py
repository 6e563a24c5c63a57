"""Quantises the ONNX graph with ONNX Runtime's tools, by what it costs in quality."""

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quant_pre_process,
    quantize_static,
    save_tensors_data,
)
from torch import Tensor

from srmodels.edge.graph import tile_module
from srmodels.edge.onnx import OnnxRunner, OnnxTarget, export_graph
from srmodels.edge.onnx_sharing import unshare
from srmodels.edge.onnx_trained import export_trained
from srmodels.edge.sparing import spare_fewest
from srmodels.edge.target import Calibration, Cost, ExportSettings
from srmodels.network import SRNetwork

#: What is quantised: the products, which hold all weights of convolutions and linear layers.
_PRODUCTS = ("Conv", "Gemm", "MatMul")
#: How ranges are found, by name: extremes, 99.999 % of the values, or least divergence.
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
#: Histograms are made of so many images at most: each takes a pass over all activations.
_MAX_HISTOGRAM = 32
#: Images whose activations are in memory at once.
_CHUNK = 4


class OnnxInt8(OnnxTarget):
    """A graph with quantised products (QDQ): weights int8 per channel, activations uint8.

    Three ways to find the ranges are tried, and the one that costs the least quality is kept. If it
    costs too much, each layer is spared in turn, and those that give back the most stay in fp32
    until the loss is small enough. Networks that a stage of the kind `quantize` trained have ranges
    of their own, and these are written.
    """

    file = "model_int8.onnx"
    exact = False
    quantises = True
    #: The precision of networks that were trained for this target, see `NetworkConfig.quantised`.
    precision = "int8"
    #: The type of activations, and the ways to find their ranges.
    activations = QuantType.QUInt8
    methods: Sequence[str] = tuple(_METHODS)

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        if network.quantised == self.precision:
            return export_trained(network, path, settings)
        calibration = settings.calibration
        assert calibration is not None
        with TemporaryDirectory() as folder:
            plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
            made = export_graph(tile_module(network, settings.tile), plain, settings)
            with _quiet():
                quant_pre_process(str(plain), str(prepared))
            trials = _Trials(prepared, Path(folder), path, calibration, self.activations)
            method, cost = trials.best_method(self.methods)
            spared = [] if cost.is_small else trials.spare(method)
            trials.write(method, spared)
        return {
            **made,
            "calibration": f"{method}, {len(calibration.images)} images",
            "layers in fp32": ", ".join(spared) or "none",
        }


class OnnxA16W8(OnnxInt8):
    """As `OnnxInt8` with activations of 16 bits, for NPUs that compute so. CPUs gain nothing by it.

    65,536 levels need no values clipped, so ranges are extremes.
    """

    file = "model_a16w8.onnx"
    precision = "a16w8"
    activations = QuantType.QUInt16
    methods = ("minmax",)


@dataclass
class _Trials:
    """Quantised versions of one graph, each written to `path` and judged.

    Attributes:
        prepared: the graph in fp32, with shapes.
        folder: for the ranges, which are kept by method.
        activations: their type.
    """

    prepared: Path
    folder: Path
    path: Path
    calibration: Calibration
    activations: QuantType

    def best_method(self, methods: Iterable[str]) -> tuple[str, Cost]:
        """Returns the method whose ranges cost the least quality, and what it costs."""
        costs = {}
        for method in methods:
            self._keep_ranges(method)
            costs[method] = self._cost(method, [])
            self.calibration.on_trial(f"{method}: {costs[method]}")
        best = min(costs, key=lambda method: costs[method])
        return best, costs[best]

    def spare(self, method: str) -> list[str]:
        """Returns the layers to leave in fp32 so that the cost is small enough: as few as do, of
        those whose sparing alone gives back the most. All but one, if that is never enough."""
        graph = onnx.load(self.prepared).graph
        layers = [node.name for node in graph.node if node.op_type in _PRODUCTS]
        self.calibration.on_trial(f"{method} costs too much: sparing each of {len(layers)} layers")
        alone = {layer: self._cost(method, [layer]) for layer in layers}
        order = sorted(layers, key=lambda layer: alone[layer])

        return spare_fewest(order, lambda spared: self._cost(method, spared), self.calibration)

    def write(self, method: str, spared: Sequence[str]) -> None:
        """Writes the graph with the ranges of `method`; the layers of `spared` stay in fp32."""
        with _quiet():
            quantize_static(
                str(self.prepared),
                str(self.path),
                quant_format=QuantFormat.QDQ,
                activation_type=self.activations,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=list(_PRODUCTS),
                nodes_to_exclude=list(spared),
                calibrate_method=_METHODS[method],
                calibration_cache_path=str(self._ranges(method)),
            )
        unshare(self.path)

    def _cost(self, method: str, spared: Sequence[str]) -> Cost:
        self.write(method, spared)
        return self.calibration.cost(OnnxRunner(self.path))

    def _ranges(self, method: str) -> Path:
        return self.folder / f"{method}.json"

    def _keep_ranges(self, method: str) -> None:
        calibrator = create_calibrator(
            str(self.prepared),
            list(_PRODUCTS),
            str(self.folder / "augmented.onnx"),
            _METHODS[method],
            extra_options={"symmetric": False},
        )
        images = self.calibration.images
        if method != "minmax":
            images = images[:: -(-len(images) // _MAX_HISTOGRAM)]
        with _quiet():
            for first in range(0, len(images), _CHUNK):
                calibrator.collect_data(_Reader(images[first : first + _CHUNK]))
            ranges = calibrator.compute_data()
        save_tensors_data(ranges, str(self._ranges(method)))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Images for ONNX Runtime's calibrators."""

    def __init__(self, images: Iterable[Tensor]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, object] | None:
        image = next(self._images, None)
        return None if image is None else {"x_l": image.numpy()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what ONNX Runtime's tools print and log to the root logger to themselves."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
