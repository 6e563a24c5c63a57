"""Runs what has to happen in a process of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import srmodels


def run_module(name: str, *arguments: object, seconds: float | None = None) -> str:
    """Runs a module of SRMill by this interpreter, in the folder that SRMill lies in: paths among
    the arguments must be absolute. Returns and raises as `run_command` does."""
    folder = Path(srmodels.__path__[0]).parent
    return run_command([sys.executable, "-m", name, *arguments], folder, seconds)


def run_command(
    command: Sequence[object], folder: Path | None = None, seconds: float | None = None
) -> str:
    """Runs a command and returns what it writes to stdout.

    Args:
        folder: the one that it runs in; None: this process'.
        seconds: the longest that it may take; None: any.

    Raises:
        ValueError: it fails, or takes longer; the message is its last line on stderr.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command],
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it took more than {seconds} seconds") from None
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout
