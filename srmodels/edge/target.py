"""The protocol of edge artifacts: a target exports a network to a file, and runs that file.

A new target is one module with a class like the one in `onnx.py`, and a line in `TARGETS`.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srmodels.network import SRNetwork

#: Module and class of every target, by name; a module is imported when `make_target` needs it.
TARGETS = {
    "onnx_fp32": "srmodels.edge.onnx:OnnxFp32",
    "onnx_fp32_dynamic": "srmodels.edge.onnx:OnnxFp32Dynamic",
    "onnx_fp32_parts": "srmodels.edge.onnx_parts:OnnxFp32Parts",
    "onnx_fp16": "srmodels.edge.onnx:OnnxFp16",
    "onnx_int8": "srmodels.edge.onnx_int8:OnnxInt8",
    "onnx_a16w8": "srmodels.edge.onnx_int8:OnnxA16W8",
    "executorch_fp32": "srmodels.edge.executorch:ExecuTorchFp32",
    "executorch_int8": "srmodels.edge.executorch:ExecuTorchInt8",
    "litert_fp32": "srmodels.edge.litert:LiteRtFp32",
    "litert_int8": "srmodels.edge.litert:LiteRtInt8",
    "ncnn_fp16": "srmodels.edge.ncnn:NcnnFp16",
    "ncnn_int8": "srmodels.edge.ncnn_int8:NcnnInt8",
    "openvino_fp16": "srmodels.edge.openvino:OpenVinoFp16",
    "openvino_int8": "srmodels.edge.openvino:OpenVinoInt8",
    "coreml_fp16": "srmodels.edge.coreml:CoreMlFp16",
    "qnn_sm8550": "srmodels.edge.qnn:QnnSm8550",
    "qnn_sm8650": "srmodels.edge.qnn:QnnSm8650",
    "qnn_sm8750": "srmodels.edge.qnn:QnnSm8750",
}
#: The runtimes that work on this machine, each with the first part of its targets' names; the
#: precision is the second.
RUNTIMES = {
    "onnxruntime": "onnx",
    "executorch": "executorch",
    "litert": "litert",
    "ncnn": "ncnn",
    "openvino": "openvino",
}
#: The precisions, the highest first.
PRECISIONS = tuple(
    dict.fromkeys(
        name.partition("_")[2] for name in TARGETS if name.partition("_")[0] in RUNTIMES.values()
    )
)


#: The delegates of phones that `EdgeTarget.delegations` knows, by their names in a recipe. ONNX
#: Runtime has the first two, then come ExecuTorch's and ncnn's.
DELEGATES = {
    "nnapi": "NNAPI",
    "coreml": "Core ML",
    "xnnpack": "XNNPACK",
    "vulkan": "Vulkan",
}


@dataclass(frozen=True)
class Delegation:
    """How much of a graph a phone's delegate would take. The runtime's own kernels run the rest.

    Attributes:
        nodes: the number of all nodes; None where the file does not tell what it took.
        rest: the number of those that it does not take.
        parts: the number of pieces in which it takes them; tensors are copied between two pieces.
        left: the kinds of nodes that it does not take.
    """

    nodes: int | None
    rest: int
    parts: int
    left: tuple[str, ...]

    @classmethod
    def of(cls, nodes: Iterable[tuple[str, bool]]) -> "Delegation":
        """Returns the delegation of nodes that run one after the other.

        Args:
            nodes: the kind of each, and True where it is taken.
        """
        pairs = list(nodes)
        parts = sum(is_taken for is_taken, _ in groupby(taken for _, taken in pairs))
        left = [kind for kind, is_taken in pairs if not is_taken]
        return cls(len(pairs), len(left), parts, tuple(sorted(set(left))))

    @classmethod
    def together(cls, delegations: Iterable["Delegation"]) -> "Delegation":
        """Returns the delegation of graphs that run one after the other."""
        found = list(delegations)
        counts = [each.nodes for each in found if each.nodes is not None]
        return cls(
            sum(counts) if len(counts) == len(found) else None,
            sum(each.rest for each in found),
            sum(each.parts for each in found),
            tuple(sorted({kind for each in found for kind in each.left})),
        )

    def __str__(self) -> str:
        if not self.left:
            return "all nodes" if self.nodes is None else f"all {self.nodes} nodes"
        taken = f"all but {self.rest} node{'s' * (self.rest > 1)}"
        if self.nodes is not None:
            taken = f"{self.nodes - self.rest} of {self.nodes} nodes"
        parts = f"{self.parts} part{'s' * (self.parts != 1)}"
        return f"{taken} in {parts}; not taken: {', '.join(self.left)}"


class Runner(ABC):
    """A loaded artifact that runs on this machine: on its CPU, or in a simulator."""

    @abstractmethod
    def run(self, x_l: Tensor) -> Tensor:
        """Maps LR tiles `[B, 3, tile, tile]` to HR tiles `[B, 3, scale·tile, scale·tile]`, both in
        [0, 1]."""


def run_checked(runner: Runner, x_l: Tensor, scale: int) -> Tensor:
    """Runs an artifact on LR tiles `[B, 3, h, w]`, one at a time, since most take no more.

    Raises:
        ValueError: it fails, or makes something else than HR tiles, as another model's would.
    """
    results = []
    height, width = x_l.shape[2:]
    for tile in x_l:
        try:
            x_h = runner.run(tile[None])
        except MemoryError:
            raise
        except Exception as error:  # Each runtime has classes of its own.
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(f"fails on a tile of {height}x{width} px ({reason})") from None
        expected = [1, 3, scale * height, scale * width]
        if list(x_h.shape) != expected:
            raise ValueError(f"makes {list(x_h.shape)} of a tile, not {expected}")
        if not x_h.isfinite().all():
            raise ValueError("makes values that are no numbers")
        results.append(x_h)
    return torch.cat(results)


@dataclass(frozen=True, order=True)
class Cost:
    """The quality that an artifact loses beside PyTorch. Costs are ordered by their share.

    Attributes:
        share: a loss as a share of the largest one that is good enough; of several metrics, the
            largest share. 0 or less where nothing is lost.
        told: the losses in words.
    """

    share: float
    told: str = field(compare=False)

    @property
    def is_small(self) -> bool:
        return self.share <= 1

    def __str__(self) -> str:
        return f"{self.told} lost"


@dataclass(frozen=True)
class Calibration:
    """The images that a quantised artifact is fitted to, and the judge between two artifacts.

    Attributes:
        images: real LR tiles `[1, 3, tile, tile]` in [0, 1], on which ranges are measured.
        cost: returns the quality that a runner loses beside PyTorch.
        on_trial: called with each trial in a few words.
    """

    images: Sequence[Tensor]
    cost: Callable[[Runner], Cost]
    on_trial: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export.

    Attributes:
        tile: side of the LR input, pixels.
        opset: ONNX opset.
        calibration: for targets that quantise.
    """

    tile: int
    opset: int = 20
    calibration: Calibration | None = None


class EdgeTarget(ABC):
    """A runtime and a precision that networks are exported to.

    Attributes:
        file: the name of the artifact's main file in a bundle's `edge` folder.
        exact: True where an artifact computes what PyTorch computes, up to the rounding of fp32;
            False where the quality that it loses has to be measured.
        quantises: True where the export needs `ExportSettings.calibration`.
        dynamic: True where an artifact takes images of any size that the network takes.
        simulated: True where a simulator runs the artifact here, so that its time tells nothing.
        most_pairs: the largest number of images that it is judged by; None: all that there are.
        batched: True where input and output have a batch dimension, which is 1.
        names: those of the input and the output.
    """

    file: str
    exact: bool = True
    quantises: bool = False
    dynamic: bool = False
    simulated: bool = False
    most_pairs: int | None = None
    batched: bool = True
    names: tuple[str, str] = "x_l", "x_h"

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files of the artifact in that folder, the main one first."""
        return (self.file,)

    @abstractmethod
    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        """Writes the network's inference path for LR tiles `[1, 3, tile, tile]` in [0, 1].

        Args:
            path: the main file, in a folder that exists; the others of `files` come to lie beside
                it, or in folders there.

        Returns:
            how it was made, for its evidence: choices and the versions of tools, by name.

        Raises:
            ValueError: the network cannot take such tiles, or the runtime cannot take the network.
        """

    def delegations(self, path: Path) -> Mapping[str, Delegation]:
        """Returns what the delegates of phones would take of an artifact, by their names in
        `DELEGATES`; nothing where the runtime does not tell."""
        return {}

    @abstractmethod
    def load(self, path: Path, threads: int = 0) -> Runner:
        """Loads an artifact.

        Args:
            threads: number of threads that it may use; 0: the runtime decides.

        Raises:
            ValueError: the file is no artifact of this target.
        """


def make_target(name: str) -> EdgeTarget:
    """Returns the target called `name`.

    Raises:
        ValueError: there is no such target, or a package that it needs is not installed.
    """
    if name not in TARGETS:
        raise ValueError(f"there is no edge target '{name}': use one of {', '.join(TARGETS)}.")
    module, _, cls = TARGETS[name].partition(":")
    try:
        target: EdgeTarget = getattr(importlib.import_module(module), cls)()
    except ModuleNotFoundError as error:
        package, extra = str(error.name).partition(".")[0], name.partition("_")[0]
        raise ValueError(
            f"{name} needs the package {package}: pip install -e '.[{extra}]'."
        ) from None
    return target


@dataclass(frozen=True)
class Parity:
    """The difference between an artifact and PyTorch.

    Attributes:
        max_error: largest absolute difference; pixels lie in [0, 1].
        sqnr_db: ratio of signal to quantisation noise over all images, dB.
        num_images: number of compared images.
    """

    max_error: float
    sqnr_db: float
    num_images: int


def check_parity(network: SRNetwork, runner: Runner, images: Sequence[Tensor]) -> Parity:
    """Measures the difference between a network and its artifact.

    Args:
        images: real LR tiles `[1, 3, tile, tile]` in [0, 1]; at least one.
    """
    assert images
    network.eval()
    worst, noise, signal = 0.0, 0.0, 0.0
    with torch.inference_mode():
        for x_l in images:
            reference: NDArray[np.float64] = network(x_l).double().numpy()
            error = runner.run(x_l).double().numpy() - reference
            # Unlike `max`, this keeps NaN, which an artifact may compute.
            worst = float(np.maximum(worst, np.abs(error).max()))
            noise += float((error**2).sum())
            signal += float((reference**2).sum())
    sqnr = float("inf") if noise == 0 else 10 * float(np.log10(signal / noise))
    return Parity(worst, round(sqnr, 1), len(images))
