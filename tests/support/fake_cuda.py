"""A CUDA device without values, on which training code runs where there is no GPU.

PyTorch's fake tensors compute devices, types and shapes alone. They refuse to mix devices. This
adds what a GPU would notice besides: a wait of the host for the device, and operands of two types.
"""

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import ninja
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines.training.extensions import extensions_folder, guarded
from tests.conftest import ROOT

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
COPIES = {aten._to_copy.default, aten.copy_.default}
# Fake kernels promote the types of these, and real ones refuse.
ONE_TYPE = {
    aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default,
    aten.convolution.default, aten.lerp.Scalar, aten.lerp.Tensor,
}  # fmt: skip


class WrongTypeError(RuntimeError):
    """A kernel of CUDA would refuse operands of these types."""


class MixedDevicesError(RuntimeError):
    """A kernel of CUDA would refuse an operand in main memory, or wait for it."""


class _Watch(TorchDispatchMode):
    """Notes what makes the host wait for the device; works on real tensors as if it were absent."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is aten._pin_memory.default:
            pinned = args[0].clone()
            pinned.is_pinned_here = True
            return pinned
        if func in READS:
            if tensors[0].is_cuda:
                self._wait(func)
            if any(isinstance(tensor, FakeTensor) for tensor in tensors):
                return 1
        if func in COPIES:
            self._copied(func, args, kwargs)
        else:
            _check(func, tensors)
        real = tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if real and not _on_cuda(kwargs.get("device")):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _copied(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if func is aten.copy_.default:
            target, source = args[:2]
            to_cuda, asynchronous = target.is_cuda, len(args) > 2 and args[2]
        else:
            source = args[0]
            to_cuda = _on_cuda(kwargs.get("device") or source.device)
            asynchronous = kwargs.get("non_blocking", False)
        if source.is_cuda == to_cuda:
            return
        if source.is_cuda or not (asynchronous and hasattr(source, "is_pinned_here")):
            self._wait(func)

    def _wait(self, func: Any) -> None:
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(str(ROOT))]
        place = [f for f in frames if Path(f.filename) != Path(__file__)][-1]
        where = Path(place.filename).relative_to(ROOT)
        self.waits.append(f"{where}, {place.name}: {func}")


def _on_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _check(func: Any, tensors: list[Tensor]) -> None:
    # A number that is a tensor of main memory is allowed.
    if len(devices := {str(tensor.device) for tensor in tensors if tensor.dim()}) > 1:
        raise MixedDevicesError(f"{func} on {sorted(devices)}")
    if func in ONE_TYPE and len(types := {str(tensor.dtype) for tensor in tensors}) > 1:
        raise WrongTypeError(f"{func} on {sorted(types)}")


@contextmanager
def fake_cuda() -> Iterator[list[str]]:
    """Gives the list of the places where the host waited for the device so far.

    A read of a value on the device gives 1.
    """
    _register()
    watch = _Watch()
    with ExitStack() as stack:
        # Autocast turns itself off where there is no GPU.
        available = "torch.cuda.amp.common.amp_definitely_not_available"
        for name, value in ((available, False), ("torch.cuda.is_bf16_supported", True)):
            stack.enter_context(mock.patch(name, lambda *_, value=value: value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watch)
        yield watch.waits


@cache
def _register() -> None:
    if torch.version.cuda is not None:
        return
    from torch.utils.cpp_extension import load

    folder = extensions_folder()
    (build := folder / "fake_cuda").mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_suffix(".cpp")
    with pytest.MonkeyPatch.context() as patch, guarded(folder):
        patch.setenv("PATH", ninja.BIN_DIR, prepend=":")
        load("fake_cuda", [str(source)], build_directory=str(build), is_python_module=False)


def moved(module: nn.Module) -> nn.Module:
    """Moves a real module to the fake device, as `Module.to` does, which refuses fake tensors."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                held = torch.empty_like(parameter, device=CUDA)
                part._parameters[name] = nn.Parameter(held, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device=CUDA)
    return module
