"""A job in the place of jobs/retrain.py, which a test can let run, fail and be interrupted."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.support.forked import ForkedPython

_SCRIPT = """#!/usr/bin/env python3
import json, os, signal, sys, time
from pathlib import Path

folder = Path(__file__).parent
with (folder / "started").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + chr(10))
    file.flush()

def end(*_):
    (folder / "saved").touch()
    time.sleep(0.3)
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
while (folder / "busy").exists():
    time.sleep(0.02)
sys.exit(int((folder / "code").read_text()))
"""


class ShortJob:
    """A checkout whose jobs/retrain.py ends with `code`, as soon as it is not `busy`."""

    def __init__(self, root: Path) -> None:
        self.root, self._folder = root, root / "jobs"
        self._folder.mkdir(parents=True)
        (self._folder / "retrain.py").write_text(_SCRIPT)
        self.ends_with(0)

    def ends_with(self, code: int) -> None:
        (self._folder / "code").write_text(str(code))

    def busy(self, yes: bool) -> None:
        path = self._folder / "busy"
        path.touch() if yes else path.unlink(missing_ok=True)

    @property
    def started(self) -> list[list[str]]:
        """The arguments of each start."""
        path = self._folder / "started"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line]

    @property
    def saved(self) -> bool:
        """True once it was asked to save its work."""
        return (self._folder / "saved").exists()

    def processes(self) -> list[psutil.Process]:
        """Its own processes, without the shell that waits for it."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if words[1:2] == [str(self._folder / "retrain.py")]:
                found.append(process)
        return found

    def srmill(self, *arguments: object) -> ForkedPython:
        """Starts `srmill`, whose job this is, as a user would."""
        module = "tests.support.other_checkout"
        return ForkedPython(["-m", module, str(self.root), *map(str, arguments)], merged=True)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
