"""Starts again the servers of the full platform that die, until the platform is stopped."""

import time
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from infra.local.platform import Platform, load, start, state_file
from infra.local.servers.server import PlatformError, running
from pipelines.errors import UserError
from pipelines.storage.clock import utc

#: Seconds between two looks, and the longest pause before a server that keeps dying starts again.
PERIOD, MAX_PAUSE = 1.0, 60.0


class Keeper:
    """Starts what does not run. What dies at once again waits for twice as long each time."""

    def __init__(self) -> None:
        self._pauses: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def look(self, platform: Platform, now: float) -> list[str]:
        """Starts the servers that do not run and whose pause is over; returns their names.

        Args:
            platform: the platform as its file describes it.
            now: the time in seconds, of a clock that never goes back.
        """
        home, servers = Path(platform.home), platform.servers()
        found = running(home, servers)
        started = []
        for server in servers:
            name = server.name
            if name in found:
                if now > self._due.get(name, 0) + MAX_PAUSE:
                    self._pauses.pop(name, None)
            elif now >= self._due.get(name, 0) and found.keys() >= set(server.after):
                start(home, server)
                self._pauses[name] = min(MAX_PAUSE, 2 * self._pauses.get(name, PERIOD / 2))
                self._due[name] = now + self._pauses[name]
                started.append(name)
        return started


def keep(home: Path) -> None:
    """Keeps the platform of a home running until its file is gone."""
    keeper, lock = Keeper(), FileLock(state_file(home).with_suffix(".lock"))
    while True:
        try:
            if (platform := load(home)) is None:
                return
            with lock.acquire(blocking=False):
                for name in keeper.look(platform, time.monotonic()):
                    print(f"{utc(time.time())} {name} had died: started it again.", flush=True)
        except Timeout:
            pass  # `make up` is at it.
        except (OSError, PlatformError, UserError, psutil.Error) as error:
            print(f"{utc(time.time())} {error}", flush=True)
        time.sleep(PERIOD)
