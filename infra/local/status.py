"""Tells what of the platform runs (`make status`)."""

from pathlib import Path

import psutil

from infra.local.platform import load
from infra.local.servers.server import PlatformError, Server, running
from pipelines.storage.clock import utc


def status(home: Path) -> str:
    """Returns a line for each server: its name, whether it answers, since when it runs, its
    address and its log.

    Raises:
        PlatformError: the platform does not run, or a server of it does not answer; the message
            holds the lines.
    """
    platform = load(home)
    if platform is None:
        raise PlatformError("the local platform does not run: start it with `make up`.")
    servers = platform.servers() + ([platform.keeper()] if platform.full else [])
    found = running(home, servers)
    states = [_state(server, found.get(server.name)) for server in servers]
    lines = "\n".join(
        f"{server.name:<12} {state:<16} {_since(found.get(server.name)):<21} "
        f"{server.address:<24} {server.log}"
        for server, state in zip(servers, states, strict=True)
    )
    if set(states) != {"answers"}:
        raise PlatformError(
            f"a server of the platform does not answer; `make up` mends it.\n{lines}"
        )
    return lines


def _state(server: Server, process: psutil.Process | None) -> str:
    if process is None:
        return "does not run"
    return "answers" if server.answers() else "does not answer"


def _since(process: psutil.Process | None) -> str:
    return utc(process.create_time()) if process else "–"
