"""Exports the inference path to ncnn's format with pnnx, and runs it with ncnn."""

import subprocess
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from shutil import move
from tempfile import TemporaryDirectory

import ncnn
import numpy as np
import pnnx
import torch
from torch import Tensor, nn

from srmodels.edge.graph import example, exported_program
from srmodels.edge.target import Delegation, EdgeTarget, ExportSettings, Runner
from srmodels.network import SRNetwork


class NcnnFp16(EdgeTarget):
    """A graph (`.param`) and its weights in fp16 (`.bin`).

    ncnn computes in fp16 where the processor does, as phones do, and in fp32 elsewhere. The input
    blob is `in0` `[3, tile, tile]`, the output blob `out0`; both are fp32 and without a batch.
    """

    file = "model_fp16.ncnn.param"
    exact = False
    batched = False
    names = "in0", "out0"  # as pnnx calls them

    @property
    def files(self) -> tuple[str, ...]:
        return self.file, str(Path(self.file).with_suffix(".bin"))

    def export(self, network: SRNetwork, path: Path, settings: ExportSettings) -> Mapping[str, str]:
        # pnnx does not know the operators that fuse a sum with a product.
        program = exported_program(network, settings.tile, without=[torch.ops.aten.addcmul])
        with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            inner = program.module(check_guards=False)
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                _Traceable(inner), example(settings.tile), check_trace=False
            )
            traced.save(f"{folder}/model.pt")
            side = settings.tile
            done = subprocess.run(
                [pnnx.EXEC_PATH, "model.pt", f"inputshape=[1,3,{side},{side}]", "fp16=1"],
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
        # Held until the copy is made: a Mat does not keep the memory that it looks at.
        pixels = np.ascontiguousarray(x_l[0])
        with self.net.create_extractor() as extractor:
            source, result = NcnnFp16.names
            extractor.input(source, ncnn.Mat(pixels).clone())
            _, output = extractor.extract(result)
            return torch.from_numpy(np.array(output))[None]


class _Traceable(nn.Module):
    """A graph of torch.export that can be traced: it refuses to be set to eval mode, so it is no
    child of this module, and its weights become constants of the trace."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.__dict__["_run"] = inner.requires_grad_(False).__call__

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.__dict__["_run"](x_l)
        return x
