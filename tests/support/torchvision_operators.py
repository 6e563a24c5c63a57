"""Lets torchvision be imported beside a build of torch that it does not belong to.

Its compiled part then does not load, and its import stops at the first operator that is not there.
What the extras need of torchvision is Python, so for tests, and for tests alone, the operators are
declared, without anything behind them.
"""

import importlib.util
import re
import sys
from pathlib import Path

import torch

#: Kept: its operators go with it.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare() -> None:
    """Declares the operators if torchvision is installed and its import fails for want of them."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    else:
        return
    source = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    names = re.findall(r'register_meta\("(\w+)"', source)
    names += re.findall(r'"torchvision::(\w+)"', source)
    for name in dict.fromkeys(names):
        _LIBRARY.define(f"{name}(Tensor x) -> Tensor")
