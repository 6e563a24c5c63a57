"""Chooses the ports of the platform."""

import socket
from collections.abc import Mapping
from pathlib import Path

from infra.local.servers.server import PlatformError

#: The servers that people open themselves.
_TOLD = ("dashboard", "MLflow", "TLS of MLflow", "TLS of Ray", "TLS of S3")


def free_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Returns each name's wanted port, or the next free one; prints a line where a server that
    people open has another one than usual.

    Raises:
        PlatformError: none of the hundred ports from the wanted one on is free.
    """
    chosen: dict[str, int] = {}
    for name, first in wanted.items():
        for port in range(first, first + 100):
            if port not in chosen.values() and _is_free(port):
                break
        else:
            raise PlatformError(
                f"ports {first} to {first + 99} are all taken: free one for {name}."
            )
        if port != first and name in _TOLD:
            print(f"Port {first} is taken, so {name} listens on {port}.")
        chosen[name] = port
    return chosen


def _is_free(port: int) -> bool:
    """Returns True if nothing listens on a port, and no killed SeaweedFS has left a socket there:
    one of another user would keep this one from starting."""
    if any(Path("/tmp").glob(f"seaweedfs-*-{port}.sock")):
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
