"""The keys of a job, which does not run."""

import runpy
import sys
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
