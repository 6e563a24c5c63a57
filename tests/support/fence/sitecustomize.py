"""Hides folders of this machine from a process, as those on the disk of another node are.

Python imports it at its start from a folder in PYTHONPATH. HIDDEN_FOLDERS lists what is hidden.
"""

import errno
import os
import sys
from typing import Any

HIDDEN = tuple(filter(None, os.environ.get("HIDDEN_FOLDERS", "").split(os.pathsep)))
EVENTS = {
    "open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.scandir", "sqlite3.connect",
}  # fmt: skip


def hide(event: str, arguments: tuple[Any, ...]) -> None:
    if event in EVENTS and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.fsdecode(arguments[0])
        if path.startswith(HIDDEN):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


if HIDDEN:
    sys.addaudithook(hide)
