"""Makes a process one of another node: with a name of its own, and without folders of this machine.

Python imports it at its start from a folder in PYTHONPATH. HIDDEN_FOLDERS lists what is hidden.
NODE_NAME is the name of the node. The file in FENCE_LOG gets a line for each path that the process
asked for in vain.
"""

import errno
import os
import socket
import sys
from typing import Any

HIDDEN = tuple(filter(None, os.environ.get("HIDDEN_FOLDERS", "").split(os.pathsep)))
LOG = os.environ.get("FENCE_LOG")
EVENTS = {
    "open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.scandir", "sqlite3.connect",
}  # fmt: skip


def hide(event: str, arguments: tuple[Any, ...]) -> None:
    if event in EVENTS and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.fsdecode(arguments[0])
        if path.startswith(HIDDEN):
            if LOG:
                with open(LOG, "a") as log:
                    log.write(f"{event} {path}\n")
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


if HIDDEN:
    sys.addaudithook(hide)
if name := os.environ.get("NODE_NAME"):
    socket.gethostname = lambda: str(name)
