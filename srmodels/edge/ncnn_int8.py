"""Quantises ncnn's graph, by what that costs in quality: its convolutions and inner products.

ncnn's package lacks the program that does this (ncnn2int8), so this module writes the same format,
as `ncnn/src/modelbin.cpp` and the `load_model` of `convolution.cpp` and `innerproduct.cpp` read it.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from srmodels.edge.graph import tile_module
from srmodels.edge.ncnn import NAMES, NcnnRunner, NcnnTarget, as_mat, convert, program_for_pnnx
from srmodels.edge.sparing import spare_if_needed
from srmodels.edge.target import Calibration, Cost, ExportSettings
from srmodels.network import SRNetwork

#: What stands before the weights of a product in `.bin`: their type.
_FP32, _FP16, _INT8 = 0, 0x01306B47, 0x000D4B38
#: Largest level of int8; ncnn's are symmetric.
_LEVELS = 127
#: The kinds of layers that are quantised.
_QUANTISED = ("Convolution", "InnerProduct")
#: How the range of a layer's input is found of the largest absolute values of all images.
_METHODS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "extremes": max,
    "mean of extremes": lambda found: sum(found) / len(found),
}


class NcnnInt8(NcnnTarget):
    """A graph with products in int8: weights per channel, activations between symmetric ends. The
    products of attention, and depthwise convolutions, are not: their weights are stored in fp16.

    Two ways to find the ends are tried, and the one that costs the least quality is kept. If it
    costs too much, the layers that int8 harms most stay in fp16, as few as are enough.
    """

    file = "model_int8.ncnn.param"
    quantises = True

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        calibration = settings.calibration
        assert calibration is not None
        program = program_for_pnnx(network, settings.tile)
        with TemporaryDirectory() as folder:
            plain = Path(folder, "model.ncnn.param")
            made = convert(program, settings.tile, plain, in_fp16=False)
            graph = _Graph.read(plain, program)
            found = _extremes(plain, graph.inputs, calibration.images)
        trials = {
            name: _Trial(graph, path, calibration, {blob: of(found[blob]) for blob in found})
            for name, of in _METHODS.items()
        }
        costs = {name: trial.cost([]) for name, trial in trials.items()}
        for name, cost in costs.items():
            calibration.on_trial(f"{name}: {cost}")
        method = min(costs, key=lambda name: costs[name])
        module = tile_module(network, settings.tile)
        spared = set(spare_if_needed(module, trials[method].cost, calibration))
        if all(product.name in spared for product in graph.products):
            raise ValueError("int8 costs too much in each of its layers, so none would be in int8")
        return {
            **made,
            "calibration": f"{method}, {len(calibration.images)} images",
            "layers in fp16": ", ".join(graph.left(spared)) or "none",
        }


@dataclass(frozen=True)
class _Product:
    """A layer of a graph that multiplies by weights.

    Attributes:
        name: that of the network's module.
        line: the number of its line in `.param`.
        blob: its input; empty where it is not quantised.
        offset: where its weights begin in `.bin`, bytes.
        weights: `[out, …]`, as `.bin` has them.
        bias: number of the biases, which follow the weights.
    """

    name: str
    line: int
    blob: str
    offset: int
    weights: NDArray[np.float32]
    bias: int


@dataclass(frozen=True)
class _Graph:
    """A graph in fp32.

    Attributes:
        lines: those of `.param`.
        data: the content of `.bin`.
        stored: all products, in the order of `.bin`.
    """

    lines: Sequence[str]
    data: bytes
    stored: Sequence[_Product]

    @classmethod
    def read(cls, path: Path, program: ExportedProgram) -> "_Graph":
        """Reads what pnnx made of a program.

        Raises:
            ValueError: pnnx stored other weights than those of the program's layers.
        """
        lines, data = path.read_text().splitlines(), path.with_suffix(".bin").read_bytes()
        wanted = [(line, size) for line, text in enumerate(lines) for size in _sizes(text)]
        names = _find_weights(data, program, {size for _, size in wanted})
        sizes = [names[offset][1].size for offset in sorted(names)]
        if sizes != [size for _, size in wanted]:
            raise ValueError("pnnx changed weights of it, so they cannot be written in int8")
        products = []
        for (line, _), offset in zip(wanted, sorted(names), strict=True):
            fields, (name, weights) = lines[line].split(), names[offset]
            parameters = _parameters(lines[line])
            blob, bias = "", 0
            if fields[0] in _QUANTISED:
                has_bias = parameters.get(5 if fields[0] == "Convolution" else 1, 0)
                blob, bias = fields[4], has_bias * parameters[0]
                weights = weights.reshape(parameters[0], -1)
            products.append(_Product(name, line, blob, offset, weights, bias))
        return cls(lines, data, products)

    @property
    def products(self) -> list[_Product]:
        """The products that can be in int8."""
        return [product for product in self.stored if product.blob]

    @property
    def inputs(self) -> list[str]:
        """The blobs whose ranges have to be known."""
        return list(dict.fromkeys(product.blob for product in self.products))

    def left(self, spared: Collection[str]) -> list[str]:
        """Returns the names of the products that are not in int8."""
        left = (each.name for each in self.stored if not each.blob or each.name in spared)
        return list(dict.fromkeys(left))

    def write(self, path: Path, ends: Mapping[str, float], spared: Collection[str]) -> None:
        """Writes the graph with its products in int8.

        Args:
            ends: the largest absolute value of each of `inputs`.
            spared: names of products that stay in fp16.
        """
        lines, parts, done = list(self.lines), [], 0
        for each in self.stored:
            start, end = each.offset, each.offset + each.weights.nbytes
            parts.append(self.data[done : start - 4])  # without the type
            if not each.blob or each.name in spared:
                parts.append(_typed(_FP16, each.weights.astype(np.float16)))
                done = end
                continue
            scales = _LEVELS / np.maximum(np.abs(each.weights).max(1), 1e-12)
            levels = np.rint(each.weights * scales[:, None]).astype(np.int8)
            done = end + 4 * each.bias
            parts += [_typed(_INT8, levels), self.data[end:done]]
            parts.append(scales.astype(np.float32).tobytes())
            parts.append(struct.pack("<f", _LEVELS / max(ends[each.blob], 1e-12)))
            lines[each.line] += " 8=1"
        path.write_text("\n".join(lines) + "\n")
        path.with_suffix(".bin").write_bytes(b"".join([*parts, self.data[done:]]))


@dataclass(frozen=True)
class _Trial:
    """Quantised versions of one graph with the same ends, each written to `path` and judged."""

    graph: _Graph
    path: Path
    calibration: Calibration
    ends: Mapping[str, float]

    def cost(self, spared: Sequence[str]) -> Cost:
        """Writes the graph, whose products of these names stay in fp16; returns what it costs."""
        self.graph.write(self.path, self.ends, spared)
        return self.calibration.cost(NcnnRunner(self.path))


def _typed(kind: int, values: NDArray[np.generic]) -> bytes:
    """Returns weights with their type, filled up to a multiple of four bytes."""
    data = values.tobytes()
    return struct.pack("<I", kind) + data + b"\0" * (-len(data) % 4)


def _parameters(line: str) -> dict[int, int]:
    """Returns the whole numbers among the parameters of a layer."""
    fields = line.split()
    found = (field.partition("=") for field in fields[4 + int(fields[2]) + int(fields[3]) :])
    return {int(key): int(value) for key, _, value in found if value.isdigit()}


def _sizes(line: str) -> Iterator[int]:
    """Yields the numbers of weights of each product that a layer holds."""
    kind = line.partition(" ")[0]
    if kind in ("Convolution", "ConvolutionDepthWise"):
        yield _parameters(line)[6]
    elif kind == "InnerProduct":
        yield _parameters(line)[2]
    elif kind == "MultiHeadAttention":  # queries, keys, values and the result
        yield from [_parameters(line)[2]] * 4
    elif kind == "Gemm" and (found := _parameters(line)).get(5):
        yield found[8] * found[9]


def _find_weights(
    data: bytes, program: ExportedProgram, sizes: set[int]
) -> dict[int, tuple[str, NDArray[np.float32]]]:
    """Returns the weights of a program's layers and the layers' names, by where they begin."""
    found = {}
    for key, tensor in program.state_dict.items():
        if tensor.ndim < 2 or tensor.numel() not in sizes:
            continue
        values = tensor.detach().float().numpy()
        pattern = struct.pack("<I", _FP32) + values.tobytes()
        start = data.find(pattern)
        while start >= 0:
            found[start + 4] = key.rpartition(".")[0], values
            start = data.find(pattern, start + 4)
    return found


def _extremes(path: Path, blobs: Sequence[str], images: Sequence[Tensor]) -> dict[str, list[float]]:
    """Returns the largest absolute value of each blob in each image, as ncnn computes them."""
    net = NcnnRunner(path).net
    found: dict[str, list[float]] = {blob: [] for blob in blobs}
    for image in images:
        with net.create_extractor() as extractor:
            extractor.set_light_mode(False)  # keep what later blobs need
            extractor.input(NAMES[0], as_mat(image))
            for blob in blobs:
                _, values = extractor.extract(blob)
                found[blob].append(float(np.abs(np.array(values)).max()))
    return found
