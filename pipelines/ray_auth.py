"""Keeps Ray to its user: a token that every request must carry, and no open port where none is
needed. Ray runs whatever code it is sent, so whoever is let in is its user."""

import os
import secrets
import socket
import tempfile
from pathlib import Path

import psutil

#: Ray's own variables: "token" or "disabled"; the token; else the file that holds it.
MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
#: Ray's switch for clusters of several machines, named after the systems where it is off. Where it
#: is off, all of Ray's processes listen on 127.0.0.1 only. A whole cluster needs the same value.
OTHER_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def new_token() -> str:
    """Returns a random token of 256 bits, in hex."""
    return secrets.token_hex(32)


def keep_token(path: Path, token: str | None = None) -> None:
    """Writes a token to a file that only its user can read, unless the file is there already.

    Args:
        token: the token; a new one if it is None.

    Raises:
        OSError: the file system refuses.
    """
    if _is_private(path):
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(token or new_token())
    os.replace(name, path)


def token_environment(path: Path) -> dict[str, str]:
    """Returns the variables that make Ray use the token in a file."""
    return {MODE: "token", TOKEN_PATH: str(path)}


def private_environment(path: Path) -> dict[str, str]:
    """Returns the environment of a cluster on this machine, and of its clients: each of them shows
    the token in the file, and listens on 127.0.0.1 only."""
    # Ray prefers a token in TOKEN. An empty one counts as none.
    return token_environment(path) | {TOKEN: "", OTHER_MACHINES: "0"}


def authenticate(address: str) -> None:
    """Prepares this process for the cluster at an address, or for one that it starts ("local").

    A mode and a token that are there stay. A cluster that this process starts has a token in any
    case, unless RAY_AUTH_MODE forbids it. A new token is in the environment alone: Ray itself would
    leave it in the user's home folder.
    """
    from ray._private import ray_constants

    starts = address == "local"
    given = bool(os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH))
    # As with Ray, an address that was named does not get the token in the user's home folder.
    here = not os.environ.get("RAY_ADDRESS")
    kept = (Path.home() / ".ray" / "auth_token").is_file()
    if starts or given or (here and kept):
        os.environ.setdefault(MODE, "token")
    if starts and os.environ[MODE].lower() == "token" and not (given or kept):
        os.environ[TOKEN] = new_token()
    if starts or _listens_here_only(address):
        os.environ[OTHER_MACHINES] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
    read_again()


def read_again() -> None:
    """Makes Ray read mode and token from the environment. It does so by itself only once."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def is_refused(address: str) -> bool:
    """Returns True if the cluster at HOST:PORT asks for another token than this process has. Ray
    itself would ask again for half a minute, and not say why."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.exceptions import AuthenticationError

    try:
        with init_grpc_channel(address) as channel:
            stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=5)
    except AuthenticationError:
        return True
    except grpc.RpcError as error:
        return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def _is_private(path: Path) -> bool:
    """Returns True if a file holds something that nobody but its user can read."""
    if path.is_symlink() or not path.is_file():
        return False
    found = path.stat()
    return found.st_size > 0 and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _listens_here_only(address: str) -> bool:
    """Returns True if HOST:PORT is a port of this machine that no other machine can reach."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost", "[::1]"):
        return False
    return not any(_listens(each, int(port)) for each in outside_addresses())


def outside_addresses() -> list[str]:
    """Returns the IPv4 addresses of this machine by which others reach it."""
    found = [each for card in psutil.net_if_addrs().values() for each in card]
    numbers = [each.address for each in found if each.family == socket.AF_INET]
    return [number for number in numbers if not number.startswith("127.")]


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
