"""Loads DeepSpeed's extension, so that no start waits for a process that was killed in its build.

While torch builds an extension, an empty file `lock` stands beside it, and other processes wait
until it is gone. A process that is killed leaves it there. Therefore the extension has a folder of
our own, which a lock of the kernel guards. That lock ends with its process, so whoever holds it
knows that the builder of every file `lock` in the folder is gone.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.storage.clock import Clock
from pipelines.storage.files import local_files

VARIABLE = "TORCH_EXTENSIONS_DIR"
GUARD, HOLDER = ".guard.lock", ".holder"
# A build takes about half a minute; who only loads an extension holds the lock for less than this.
TOLD_AFTER_S, LOOK_S = 5.0, 0.2


@cache
def load_extension() -> None:
    """Loads the extension of DeepSpeed's collectives on CPUs; builds it if nobody has.

    DeepSpeed then finds it loaded. Other accelerators need none.

    Raises:
        UserError: the file system refuses the folder.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import __compatible_ops__

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not __compatible_ops__.get(builder.NAME, False):
        return
    folder = extensions_folder()
    with guarded(folder), _variable(str(folder)):
        builder.load(verbose=False)


def extensions_folder() -> Path:
    """Returns our folder of extensions, below $TORCH_EXTENSIONS_DIR or the user's cache.

    Other versions of torch, DeepSpeed or Python have another.
    """
    from torch.utils.cpp_extension import get_default_build_root

    root = os.environ.get(VARIABLE) or get_default_build_root()
    versions = f"torch-{version('torch')}-deepspeed-{version('deepspeed')}"
    return Path(root) / f"srmill-{versions}-{sys.implementation.cache_tag}"


@contextmanager
def guarded(folder: Path, clock: Clock = Clock()) -> Iterator[None]:
    """Holds the lock of a folder of extensions, and removes what killed builders left in it.

    It prints whom it waits for, if that takes long.

    Raises:
        UserError: the file system refuses.
    """
    with local_files(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / GUARD)
        _acquire(lock, folder, clock)
    try:
        with local_files(folder):
            (folder / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
            for left in folder.glob("*/lock"):
                print(f"removing {left}: the process that built there is gone.", flush=True)
                left.unlink()
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path, clock: Clock) -> None:
    start, told = clock.now(), False
    while True:
        with suppress(Timeout):
            lock.acquire(timeout=0)
            return
        if not told and clock.now() - start > TOLD_AFTER_S:
            told = True
            print(f"waiting for {_holder(folder)}, which builds extensions in {folder}", flush=True)
        clock.sleep(LOOK_S)


def _holder(folder: Path) -> str:
    with suppress(FileNotFoundError):
        return (folder / HOLDER).read_text() or "another process"
    return "another process"


@contextmanager
def _variable(value: str) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
