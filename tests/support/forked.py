"""Commands of Python, in processes that are forked from one that has imported what they need.

A command says, does and leaves behind what it does when it is started anew, seconds earlier. Where
the start itself is tested, tests start it anew: `run_python`.
"""

import atexit
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import pytest

from tests.support.processes import FORK

_ROOT = Path(__file__).resolve().parents[2]
#: The commands that the running test has started.
_STARTED: list["ForkedPython"] = []


class ForkedPython:
    """`python ARGUMENTS` in the repository: a file, or `-m` and a module, with its arguments.

    Args:
        environment: all of its variables; None: those of this process.
        merged: True where its errors go to where its output goes.

    Attributes:
        stdout, stderr: what it says, as text; the latter is empty where both are merged.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        merged: bool = False,
    ) -> None:
        (out, into_out), (err, into_err) = FORK.Pipe(duplex=False), FORK.Pipe(duplex=False)
        self._process = FORK.Process(
            target=_run,
            args=(
                list(arguments),
                dict(os.environ if environment is None else environment),
                into_out,
                into_out if merged else into_err,
            ),
        )
        self._process.start()
        _STARTED.append(self)
        assert self._process.pid is not None
        self.pid = self._process.pid
        into_out.close()
        into_err.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno())) for end in (out, err))
        out.close()
        err.close()

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end, and returns its exit code; below 0: the signal that ended it."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("python", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end, and returns what it said."""
        streams = {"out": self.stdout, "err": self.stderr}
        said = dict.fromkeys(streams, "")

        def read(name: str) -> None:
            said[name] = streams[name].read()

        # Whoever else has these streams may keep them open after a timeout.
        readers = [Thread(target=read, args=(name,), daemon=True) for name in streams]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for reader in readers:
            reader.join()
        return said["out"], said["err"]

    @property
    def returncode(self) -> int:
        return self.wait()


def _run(arguments: list[str], environment: dict[str, str], *ends: Connection) -> None:
    for number, end in enumerate(ends, 1):
        os.dup2(end.fileno(), number)
    for end in set(ends):
        end.close()
    # Those that were there belong to the server's output, which may be a file.
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(_ROOT)
    name, *rest = arguments
    try:
        if name == "-m":
            sys.path.insert(0, str(_ROOT))
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str((_ROOT / name).parent))
            sys.argv = arguments
            runpy.run_path(str(_ROOT / name), run_name="__main__")
    finally:
        # A process of multiprocessing leaves without them.
        atexit._run_exitfuncs()


@pytest.fixture(autouse=True)
def _no_command_stays() -> Iterator[None]:
    """Ends what a test has started and, when it fails, not ended."""
    _STARTED.clear()
    yield
    for process in _STARTED:
        process.kill()


@pytest.fixture(scope="session")
def run_forked() -> object:
    """Runs a file or a module as `run_python` does, without its start."""

    def run(
        *arguments: str, timeout: int = 300, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        process = ForkedPython(arguments, os.environ | environment)
        out, err = process.communicate(timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run
