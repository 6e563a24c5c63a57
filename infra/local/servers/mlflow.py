"""The MLflow server: alone with an sqlite file, or with PostgreSQL, S3 and passwords."""

from collections.abc import Mapping
from pathlib import Path

from infra.local.secrets import JOBS, secret
from infra.local.servers import postgres, seaweedfs
from infra.local.servers.server import (
    PlatformError,
    Server,
    answers,
    environment_of,
    without_credentials,
)

PORTS = {"MLflow": 5000}
ADMIN = "admin"
#: A user who has logged in reads everything, and changes what is his own. A password that was right
#: is not computed anew for a minute.
_AUTH = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
auth_cache_ttl_seconds = 60
"""
#: The server would start idle processes for evaluations of language models.
_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def mlflow_with_sqlite(home: Path, port: int, log: Path) -> Server:
    """Returns a server for the user of this machine: without passwords."""
    folder = home / "work" / "mlflow"
    command = (
        *_command(port), f"--backend-store-uri=sqlite:///{folder}/mlflow.db",
        # Clients write artifacts to disk themselves, so they stay readable without the server.
        f"--default-artifact-root={(folder / 'artifacts').as_uri()}", "--no-serve-artifacts",
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    return Server(
        "MLflow",
        command,
        environment_of(home) | _NO_JOBS,
        log,
        url,
        answers=lambda: answers(f"{url}/health") == 200,
        prepare=lambda: folder.mkdir(parents=True, exist_ok=True),
    )


def mlflow_with_postgres(home: Path, ports: Mapping[str, int], log: Path) -> Server:
    """Returns a server with users and passwords, whose runs and versions PostgreSQL holds, and
    whose files S3 holds."""
    port, database = ports["MLflow"], ports["PostgreSQL"]
    settings = home / "work" / "mlflow" / "auth.ini"
    command = (
        *_command(port), "--app-name=basic-auth",
        f"--backend-store-uri={postgres.database_url(database, 'mlflow')}",
        f"--artifacts-destination=s3://{seaweedfs.MLFLOW_BUCKET}/artifacts",
    )  # fmt: skip
    environment = {
        **without_credentials(environment_of(home)),
        **_NO_JOBS,
        **seaweedfs.credentials(home, "mlflow"),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['S3']}",
        "PGPASSWORD": secret(home, "postgres-mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret(home, "mlflow-admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(home, "mlflow-session"),
    }
    url = f"http://127.0.0.1:{port}"

    def prepare() -> None:
        settings.parent.mkdir(parents=True, exist_ok=True)
        address = postgres.database_url(database, "mlflow_auth")
        settings.write_text(_AUTH.format(database=address, admin=ADMIN))

    return Server(
        "MLflow",
        command,
        environment,
        log,
        url,
        answers=lambda: answers(f"{url}/health") == 200,
        after=("PostgreSQL", "S3"),
        prepare=prepare,
        settle=lambda: make_user(url, secret(home, "mlflow-admin"), secret(home, f"mlflow-{JOBS}")),
    )


def _command(port: int) -> tuple[str, ...]:
    return ("mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1")


def make_user(url: str, admin_password: str, password: str) -> None:
    """Makes MLflow's user of the jobs, where there is none yet.

    Args:
        url: the address of MLflow.
        admin_password: its administrator's password.
        password: the password of the user.

    Raises:
        PlatformError: the server refuses the administrator's password, or fails.
    """
    import requests

    users, admin = f"{url}/api/2.0/mlflow/users", (ADMIN, admin_password)
    found = requests.get(f"{users}/get", {"username": JOBS}, auth=admin, timeout=30)
    if found.status_code == 404:
        user = {"username": JOBS, "password": password}
        found = requests.post(f"{users}/create", json=user, auth=admin, timeout=30)
    if found.status_code in (401, 403):
        raise PlatformError(
            "MLflow refuses its administrator's password: write the one that it knows into "
            "work/secrets/mlflow-admin, or for containers into infra/containers/.env."
        )
    if not found.ok:
        raise PlatformError(f"MLflow makes no user for the jobs ({found.text[:200]}): see its log.")
