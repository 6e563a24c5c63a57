"""The keys of a job, which does not run, and jobs that run in this process."""

import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pipelines import interrupts, job


@cache
def keys_of(path: Path) -> tuple[str, ...]:
    """The keys and sections that a file of a job says it takes, those of every job too."""
    found: list[tuple[str, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interrupts, "end_quietly", lambda *_: None)
        patch.setattr(job, "main", lambda _, __, keys, *___: found.append((*job.COMMON, *keys)))
        patch.setattr(sys, "path", list(sys.path))
        runpy.run_path(str(path), run_name="__main__")
    return found[-1]


def takes(keys: tuple[str, ...], key: str) -> bool:
    """Returns True if a key is one of these, or in one of these sections."""
    return any(key == name or key.startswith(f"{name}.") for name in keys)


@dataclass(frozen=True)
class Done:
    """The output of a job, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


RunHere = Callable[..., Done]


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunHere:
    """Runs a file with arguments, one that starts no Ray, in this process: a process of its own
    takes seconds to import what it needs."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    # A job leaves without waiting for threads that servers left behind; the test session stays.
    monkeypatch.setattr(os, "_exit", leave)

    def run(path: Path, *arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
        said = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, said.out, said.err)

    return run
