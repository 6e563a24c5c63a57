"""Processes of tests: the ranks of a training, the holders of a lease."""

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.multiprocessing.spawn import start_processes

from pipelines.data.stream import PRELOADED

#: A fork of a process with threads may hang; that of a server without any does not. The server
#: imports once what every process needs, and loader processes are forked from it too.
FORK = multiprocessing.get_context("forkserver")
PRELOADED.append("tests.support.imported")
FORK.set_forkserver_preload(PRELOADED)


def run_ranks(function: Callable[..., object], arguments: tuple[Any, ...], count: int) -> None:
    """Runs `function(rank, *arguments)` in `count` processes.

    Raises:
        Exception: a rank failed.
    """
    start_processes(inherit(function), arguments, nprocs=count, start_method="forkserver")


def inherit(function: Callable[..., object]) -> Callable[..., object]:
    """Returns a function that runs in another process with the environment of this one."""
    return partial(_run, dict(os.environ), function)


def _run(environment: dict[str, str], function: Callable[..., object], *arguments: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
