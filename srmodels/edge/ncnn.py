"""Exports the inference path to ncnn's format with pnnx, and runs it with ncnn."""

import subprocess
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from shutil import move
from tempfile import TemporaryDirectory
from typing import Any

import ncnn
import numpy as np
import pnnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from srmodels.edge.graph import example, exported_program
from srmodels.edge.target import Delegation, EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork

#: The names of input and output, as pnnx calls them.
NAMES = "in0", "out0"


class NcnnTarget(EdgeTarget):
    """A target of a graph (`.param`) and its weights (`.bin`).

    ncnn computes in fp16 where the processor does, as phones do, and in fp32 elsewhere. The input
    blob is `in0` `[3, tile, tile]`, the output blob `out0`; both are fp32 and without a batch.
    """

    exact = False
    batched = False
    names = NAMES

    @property
    def files(self) -> tuple[str, ...]:
        return self.file, str(Path(self.file).with_suffix(".bin"))

    def delegations(self, path: Path) -> Mapping[str, Delegation]:
        """Returns what a phone's GPU would take: the kinds of layers that ncnn has written for
        Vulkan. Some of these refuse some parameters, so a phone may take less."""
        kinds = [layer.type for layer in NcnnRunner(path).net.layers() if layer.type != "Input"]
        return {
            "vulkan": Delegation.of(
                (kind, bool(ncnn.create_layer(kind).support_vulkan)) for kind in kinds
            )
        }

    def load(self, path: Path, threads: int = 0) -> "NcnnRunner":
        return NcnnRunner(path, threads)


class NcnnFp16(NcnnTarget):
    """A graph whose weights are stored in fp16."""

    file = "model_fp16.ncnn.param"

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        return convert(program_for_pnnx(network, settings.tile), settings.tile, path, in_fp16=True)


def program_for_pnnx(network: SRNetwork, tile: int) -> ExportedProgram:
    """Returns a network's graph for one tile size, by operators that pnnx knows.

    Raises:
        ValueError: the network cannot take such tiles.
    """
    # pnnx does not know the operators that fuse a sum with a product.
    return exported_program(network, tile, without=[torch.ops.aten.addcmul])


def convert(program: ExportedProgram, tile: int, path: Path, *, in_fp16: bool) -> Mapping[str, str]:
    """Writes a graph and, beside it, its weights.

    Args:
        program: as `program_for_pnnx` returns it.
        in_fp16: True to store the weights of products in fp16, False in fp32.

    Returns:
        the versions of the tools, by name.

    Raises:
        ValueError: pnnx cannot convert it.
    """
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        inner = program.module(check_guards=False)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            _Traceable(inner), example(tile), check_trace=False
        )
        traced.save(f"{folder}/model.pt")
        shape = f"inputshape=[1,3,{tile},{tile}]"
        done = subprocess.run(
            [pnnx.EXEC_PATH, "model.pt", shape, f"fp16={int(in_fp16)}"],
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        made = Path(folder) / "model.ncnn.param"
        if done.returncode or not made.is_file():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise ValueError(f"pnnx cannot convert it ({' '.join(last) or done.returncode})")
        move(made, path)
        move(made.with_suffix(".bin"), path.with_suffix(".bin"))
    return {name: version(name) for name in ("torch", "pnnx", "ncnn")}


class NcnnRunner(Runner):
    """A loaded network that runs on the CPU.

    Raises:
        ValueError: the files are no network of ncnn, or it needs a layer that this ncnn lacks.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.net = ncnn.Net()
        self.net.opt.use_vulkan_compute = False
        self.net.opt.openmp_blocktime = 0  # its threads would spin after a run, on others' time
        if threads:
            self.net.opt.num_threads = threads
        # A network that is not whole is no error for ncnn, and ends the process when it is run.
        if self.net.load_param(str(path)) or self.net.load_model(str(path.with_suffix(".bin"))):
            raise ValueError(f"{path} is no network that ncnn {version('ncnn')} can run")

    def run(self, x_l: Tensor) -> Tensor:
        source, result = NAMES
        with self.net.create_extractor() as extractor:
            extractor.input(source, as_mat(x_l))
            _, output = extractor.extract(result)
            return torch.from_numpy(np.array(output))[None]


def as_mat(x_l: Tensor) -> Any:
    """Returns an LR tile `[1, 3, tile, tile]` as ncnn takes it."""
    # Held until the copy is made: a Mat does not keep the memory that it looks at.
    pixels = np.ascontiguousarray(x_l[0])
    return ncnn.Mat(pixels).clone()


class _Traceable(nn.Module):
    """A graph of torch.export that can be traced: it refuses to be set to eval mode, so it is no
    child of this module, and its weights become constants of the trace."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.__dict__["_run"] = inner.requires_grad_(False).__call__

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.__dict__["_run"](x_l)
        return x
