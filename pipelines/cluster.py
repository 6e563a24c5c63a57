"""One way to Ray: the cluster that is there, or one of our own for as long as it is needed."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import UserError
from pipelines.storage import in_submitted_job

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def connect() -> Iterator[None]:
    """Inside the block Ray is connected: to RAY_ADDRESS or a cluster that runs on this machine,
    else to one that is started here and stopped again. Nested calls share the outermost one.

    Raises:
        UserError: RAY_ADDRESS names a cluster that does not answer.
    """
    # Ray would otherwise switch token authentication on by itself and leave a token behind.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Progress bars are lines that look alike; and each should be printed once, not logged as well.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    _check_address()
    try:
        ray.init(
            # A submitted job inherits the uploaded copy; others bring theirs, so that the workers
            # of a larger cluster run this code and not what happens to be installed there.
            runtime_env=None if in_submitted_job() else {"working_dir": str(ROOT)},
            logging_level="error",
        )
    except (ConnectionError, RuntimeError) as error:
        address = os.environ.get("RAY_ADDRESS")
        if not address:
            raise
        raise _unreachable(address, error) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_address() -> None:
    """Whether something listens at RAY_ADDRESS: Ray itself would try for minutes."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(
        f"the Ray cluster at RAY_ADDRESS={address} does not answer "
        f"({str(error).splitlines()[0]}): start it, or unset RAY_ADDRESS to run here."
    )
