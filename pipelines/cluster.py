"""Connects to Ray: to the cluster that runs, or to one that is started for as long as needed."""

import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from pipelines.errors import UserError
from pipelines.ray_auth import authenticate, is_refused
from pipelines.storage.paths import ROOT, in_submitted_job
from pipelines.storage.probe import Witness
from srmodels.system import own_packages

#: Calls a function with each tuple of arguments; the results come in the same order.
Mapper = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]


@contextmanager
def connect() -> Iterator[None]:
    """Connects to Ray for the time of the block.

    It connects to RAY_ADDRESS, or to a cluster that runs on this machine. Otherwise it starts one
    here and stops it with the block. Nested calls share the outermost connection.

    A cluster that it starts has a token, and listens on 127.0.0.1 only. RAY_AUTH_MODE and a token
    that are there stay as they are.

    Raises:
        UserError: the cluster does not answer, or refuses this process; or none can start with this
            Python.
    """
    # The lines of a progress bar look alike. Each is printed once, and not logged as well.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = _address()
    if address == "local":
        check_interpreter()
    authenticate(address)
    if _is_gcs(address) and is_refused(address):
        raise _refused(address)
    try:
        ray.init(
            address="local" if address == "local" else None,
            runtime_env=_runtime_env(),
            logging_level="error",
        )
    except (ConnectionError, RuntimeError) as error:
        if not os.environ.get("RAY_ADDRESS"):
            raise
        raise _unreachable(address, error) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def connected_when_needed() -> Iterator[Mapper]:
    """Gives a mapper as `ray_map` is, which connects to Ray once there is something to do.

    The connection lasts for the rest of the block. The first call raises as `connect`.
    """
    with ExitStack() as stack:

        def mapped(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            todo = list(calls)
            if not todo:
                return iter(())
            stack.enter_context(connect())
            return ray_map(function, todo)

        yield mapped


def check_interpreter() -> None:
    """Checks that Ray can start workers with this Python.

    Raises:
        UserError: the path of Python holds a space. Ray would try for minutes.
    """
    if " " in sys.executable:
        raise UserError(
            f"Ray cannot start workers with {sys.executable}, since the path holds a space: move "
            "the checkout to a path without one, and make .venv anew."
        )


def ray_map(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Runs `function` as Ray tasks of one core each; call it inside `connect()`.

    At most two tasks per core are in flight, so that neither tasks nor results pile up.

    Raises:
        Exception: a task raised it; the other tasks are cancelled.
    """
    import ray

    task = ray.remote(num_cpus=1)(function)
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, pending = iter(calls), deque[Any]()
    try:
        while True:
            while len(pending) < limit and (call := next(waiting, None)) is not None:
                pending.append(task.remote(*call))
            if not pending:
                return
            yield ray.get(pending[0])
            pending.popleft()
    finally:
        for future in pending:
            ray.cancel(future, force=True)


def probing(mapper: Mapper, witnesses: Sequence[Witness]) -> Mapper:
    """Returns a mapper whose tasks check first that their node sees the driver's folders.

    A task on a node that does not see them raises UserError.
    """

    def mapped(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        @wraps(function)
        def checked(*arguments: Any) -> Any:
            for witness in witnesses:
                witness.check()
            return function(*arguments)

        return mapper(checked, calls)

    return mapped


def _runtime_env() -> dict[str, Any]:
    """Returns the code that Ray takes to the workers: this code, and systems outside of it.

    A submitted job inherits the uploaded copy. Other jobs upload this code, so that the workers of
    a larger cluster run it, and not the version that is installed there. A system's package outside
    the checkout's root is uploaded beside it (`py_modules`), and stands on every worker's sys.path.
    Workers run in a folder of Ray's, and cannot import from the folder where the job was started.
    """
    taken: dict[str, Any] = {} if in_submitted_job() else {"working_dir": str(ROOT)}
    elsewhere = [str(path) for path in own_packages() if path.parent != ROOT]
    return taken | ({"py_modules": elsewhere} if elsewhere else {})


def _address() -> str:
    """Returns the cluster to connect to: RAY_ADDRESS, or the one that runs here, or "local".

    Raises:
        UserError: nothing listens at RAY_ADDRESS. Ray itself would try for minutes.
    """
    from ray._private.utils import read_ray_address

    if address := os.environ.get("RAY_ADDRESS"):
        try:
            _knock(address)
        except (OSError, UnicodeError) as error:
            raise _unreachable(address, error) from None
        return address
    noted = read_ray_address() or "local"
    try:
        _knock(noted)
    except (OSError, UnicodeError):
        # The note is of a cluster that does not run any more. Ray would wait for it for minutes.
        return "local"
    return noted


def _is_gcs(address: str) -> bool:
    """Returns True for the form HOST:PORT."""
    _, colon, port = address.rpartition(":")
    return bool(colon) and "/" not in address and port.isdigit()


def _knock(address: str) -> None:
    """Raises OSError if `address` is HOST:PORT and nothing listens there."""
    if _is_gcs(address):
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()


def _refused(address: str) -> UserError:
    return UserError(
        f"the Ray cluster at {address} asks for its token: set RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN_PATH to the file that holds it (`make up` prints both for the local "
        "platform), or RAY_ADDRESS=local to run alone."
    )


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(
        f"the Ray cluster at RAY_ADDRESS={address} does not answer "
        f"({str(error).splitlines()[0]}): start it, or unset RAY_ADDRESS to run here."
    )
