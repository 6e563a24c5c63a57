"""Builds networks with shapes alone, which takes neither memory nor time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: The methods by which first weights are drawn.
_DRAWS = {Tensor.normal_, Tensor.uniform_}


@contextmanager
def on_meta() -> Iterator[None]:
    """Puts the tensors that are made during the block on the meta device, and draws no first
    weights for them.

    PyTorch would import its compiler to draw them: more than a second of every job.
    """
    with torch.device("meta"), _WithoutValues():
        yield


class _WithoutValues(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
