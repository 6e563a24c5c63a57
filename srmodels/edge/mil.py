"""Computes programs of Core ML's language (MIL) with PyTorch, operator by operator.

The operators are those of coremltools' documentation (`coremltools.converters.mil.mil.ops.defs`),
as far as our networks need them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.converters.mil.mil import Function, Operation, Var, types
from torch import Tensor

_PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}


class Program:
    """A function of MIL.

    Raises:
        ValueError: it has an operator that is not in `OPERATORS`, a result that is not in floating
            point, or another input than `x_l`.
    """

    def __init__(self, function: Function) -> None:
        self.operations = [op for op in function.operations if op.op_type != "const"]
        self.inputs = list(function.inputs.values())
        self.outputs = list(function.outputs)
        unknown = {op.op_type for op in self.operations} - OPERATORS.keys()
        if unknown:
            raise ValueError(f"operators that are not known here: {', '.join(sorted(unknown))}")
        kinds = {types.builtin_to_string(v.dtype) for op in self.operations for v in op.outputs}
        if other := kinds - _PRECISIONS.keys():
            raise ValueError(
                f"results of types that are not known here: {', '.join(sorted(other))}"
            )
        if [var.name for var in self.inputs] != ["x_l"]:
            raise ValueError("the network's `forward` has to call its input x_l")

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the outputs by name, of the inputs by name."""
        # In fp64, so that no rounding to fp16 depends on the order in which threads add.
        known: dict[Var, Any] = {var: inputs[var.name].double() for var in self.inputs}
        for operation in self.operations:
            result = OPERATORS[operation.op_type](_arguments(operation, known))
            results = result if isinstance(result, tuple) else (result,)
            for var, value in zip(operation.outputs, results, strict=True):
                if tuple(value.shape) != tuple(var.shape):
                    raise ValueError(f"{operation.name} gives another shape than it declares")
                known[var] = _rounded(value, var)
        return {var.name: known[var].float() for var in self.outputs}


class _Arguments:
    """The arguments of an operation, by name: tensors for variables, else what the file says."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return self._values.get(name)


def _arguments(operation: Operation, known: Mapping[Var, Any]) -> _Arguments:
    def value(var: Any) -> Any:
        if isinstance(var, list | tuple):
            return [value(each) for each in var]
        return known[var] if var in known else _constant(var.val)

    return _Arguments({name: value(v) for name, v in operation.inputs.items() if v is not None})


def _constant(value: Any) -> Any:
    """Returns a constant: a tensor of floats, else Python's own numbers and lists."""
    if isinstance(value, np.ndarray | np.generic):
        if np.issubdtype(value.dtype, np.floating):
            return torch.from_numpy(np.asarray(value, np.float64).copy())
        return value.tolist()
    return value


def _rounded(value: Tensor, var: Var) -> Tensor:
    """Rounds a result to the precision that the program declares."""
    return value.to(_PRECISIONS[types.builtin_to_string(var.dtype)]).double()


def _conv(a: _Arguments) -> Tensor:
    x: Tensor = a.x
    if a.pad_type == "custom":
        top, bottom, left, right = a.pad
        x = F.pad(x, (left, right, top, bottom))
    elif a.pad_type != "valid":
        raise ValueError(f"a padding that is not known here: {a.pad_type}")
    return F.conv2d(x, a.weight, a.bias, a.strides, 0, a.dilations, a.groups)


def _upsample(mode: str) -> Callable[[_Arguments], Tensor]:
    def upsample(a: _Arguments) -> Tensor:
        if a.align_corners or (a.half_pixel_centers is False and mode == "bilinear"):
            raise ValueError("it aligns corners, which is not known here")
        factor = float(a.scale_factor_height), float(a.scale_factor_width)
        return F.interpolate(a.x, scale_factor=factor, mode=mode)

    return upsample


def _gelu(a: _Arguments) -> Tensor:
    if a.mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise ValueError(f"a GELU that is not known here: {a.mode}")
    return F.gelu(a.x, approximate="none" if a.mode == "EXACT" else "tanh")


def _matmul(a: _Arguments) -> Tensor:
    x, y = (t.mT if turned else t for t, turned in ((a.x, a.transpose_x), (a.y, a.transpose_y)))
    product: Tensor = x @ y
    return product


def _layer_norm(a: _Arguments) -> Tensor:
    if a.axes not in ([-1], [a.x.ndim - 1]):
        raise ValueError(f"a layer norm over axes that are not known here: {a.axes}")
    return F.layer_norm(a.x, a.x.shape[-1:], a.gamma, a.beta, float(a.epsilon))


def _concat(a: _Arguments) -> Tensor:
    if a.interleave:
        raise ValueError("it interleaves tensors, which is not known here")
    return torch.cat(a.values, a.axis)


def _split(a: _Arguments) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = (
        a.x.split(a.split_sizes, a.axis)
        if a.split_sizes is not None
        else a.x.chunk(a.num_splits, a.axis)
    )
    return parts


def _expand_dims(a: _Arguments) -> Tensor:
    x: Tensor = a.x
    for axis in sorted(a.axes):
        x = x.unsqueeze(axis)
    return x


def _batch_norm(a: _Arguments) -> Tensor:
    return F.batch_norm(a.x, a.mean, a.variance, a.gamma, a.beta, eps=float(a.epsilon))


#: What computes each operator.
OPERATORS: Mapping[str, Callable[[_Arguments], Any]] = {
    "add": lambda a: a.x + a.y,
    "batch_norm": _batch_norm,
    "cast": lambda a: a.x,
    "clip": lambda a: a.x.clamp(float(a.alpha), float(a.beta)),
    "concat": _concat,
    "conv": _conv,
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "leaky_relu": lambda a: F.leaky_relu(a.x, float(a.alpha)),
    "linear": lambda a: F.linear(a.x, a.weight, a.bias),
    "matmul": _matmul,
    "maximum": lambda a: torch.maximum(a.x, a.y),
    "minimum": lambda a: torch.minimum(a.x, a.y),
    "mul": lambda a: a.x * a.y,
    "pixel_shuffle": lambda a: F.pixel_shuffle(a.x, a.upscale_factor),
    "pixel_unshuffle": lambda a: F.pixel_unshuffle(a.x, a.downscale_factor),
    "prelu": lambda a: F.prelu(a.x, a.alpha),
    "real_div": lambda a: a.x / a.y,
    "reduce_mean": lambda a: a.x.mean(a.axes, keepdim=a.keep_dims),
    "relu": lambda a: a.x.relu(),
    "reshape": lambda a: a.x.reshape(a.shape),
    "sigmoid": lambda a: a.x.sigmoid(),
    "silu": lambda a: F.silu(a.x),
    "softmax": lambda a: a.x.softmax(a.axis),
    "split": _split,
    "sqrt": lambda a: a.x.sqrt(),
    "square": lambda a: a.x.square(),
    "sub": lambda a: a.x - a.y,
    "tanh": lambda a: a.x.tanh(),
    "transpose": lambda a: a.x.permute(a.perm),
    "upsample_bilinear": _upsample("bilinear"),
    "upsample_nearest_neighbor": _upsample("nearest"),
}
