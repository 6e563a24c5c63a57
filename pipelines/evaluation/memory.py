"""What a call takes of main memory at its peak, by the kernel's own high-water mark."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_bytes(call: Callable[[], object]) -> int | None:
    """Beyond what this process holds before: weights that are loaded already are not in it, nor
    what libraries keep from an earlier run. None where the kernel does not tell (not on Linux)."""
    gc.collect()
    try:
        # What was freed, but kept for later, would hide what the call takes.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")
        _, before = _status("VmHWM"), _status("VmRSS")
    except (OSError, AttributeError, ValueError):
        return None
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """Raises OSError or ValueError where the kernel does not say."""
    lines = (_PROCESS / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
