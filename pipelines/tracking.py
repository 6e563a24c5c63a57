"""MLflow: one client, runs that are found again by name, and a server that is checked up front."""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.config.load import config_digest
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.storage.paths import resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

#: Tag by which a run of ours is found again.
RUN_TAG = "srmill.run"
_SQLITE = "sqlite:///"
T = TypeVar("T")


def tracking_uri(config: Config | None = None) -> str:
    """`mlflow.uri`, else $MLFLOW_TRACKING_URI, else sqlite under work/."""
    configured = config.mlflow.uri if config else None
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or "sqlite:///work/mlflow/mlflow.db"
    if uri.startswith(_SQLITE):
        # Relative to SRMILL_HOME as everything else, not to each process's own directory.
        return f"{_SQLITE}{resolve(uri.removeprefix(_SQLITE))}"
    return uri


def connect(config: Config | None = None, *, create: bool = True) -> "MlflowClient":
    """A client for the tracking server, which has been seen to answer.

    Args:
        config: for `mlflow.uri`.
        create: whether a local database that is not there is made.

    Raises:
        UserError: the server cannot be reached, or the address is of no kind that we know.
    """
    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif uri.startswith(_SQLITE):
        database = Path(uri.removeprefix(_SQLITE))
        if not create and not database.exists():
            raise UserError(
                f"there is no model registry at {database}: run `make demo` once, or set "
                "SRMILL_HOME or MLFLOW_TRACKING_URI to where one is."
            )
        database.parent.mkdir(parents=True, exist_ok=True)
    else:
        raise UserError(f"mlflow.uri '{uri}' is not of the form http(s)://… or sqlite:///path.")
    client = open_client(uri)
    import mlflow

    mlflow.set_tracking_uri(uri)
    return client


def open_client(uri: str) -> "MlflowClient":
    """A client for a tracking server, which need not answer yet; MLflow is told to be quiet."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow

    # After the import, which sets levels of its own: a new database announces every migration.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(uri)


def lookup(find: Callable[..., T], *arguments: str) -> T | None:
    """What `find` (a method of the client) returns; None if MLflow says there is no such thing.

    Raises:
        UserError: MLflow fails for any other reason.
    """
    from mlflow.exceptions import MlflowException

    try:
        return find(*arguments)
    except MlflowException as error:
        # A missing alias is reported as an invalid parameter.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise UserError(f"the MLflow registry failed: {str(error).splitlines()[0]}") from None


def _check_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            # It answers; what it allows is found out with the user's credentials.
            return
        reason: object = error
    except (OSError, ValueError) as error:
        reason = error
    raise UserError(
        f"the MLflow server at {uri} does not answer ({reason}): start it (`make up` starts a "
        "local one), or set mlflow.uri or MLFLOW_TRACKING_URI to one that runs."
    )


def find_run(client: "MlflowClient", config: Config, name: str) -> str | None:
    """Id of the newest MLflow run called `name`, if there is one."""
    experiment = client.get_experiment_by_name(_experiment(config))
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`{RUN_TAG}` = '{name}'", max_results=1
    )
    return runs[0].info.run_id if runs else None


def open_run(client: "MlflowClient", config: Config, name: str, tags: dict[str, str]) -> str:
    """Id of the MLflow run called `name`: the one that is there (running again), or a new one."""
    if run_id := find_run(client, config, name):
        client.update_run(run_id, status="RUNNING")
        return run_id
    return new_run(client, config, name, tags)


def new_run(client: "MlflowClient", config: Config, name: str, tags: dict[str, str]) -> str:
    """Id of a new MLflow run in the recipe's experiment, which is made where it is missing."""
    experiment = client.get_experiment_by_name(_experiment(config))
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        uri = tracking_uri(config)
        artifacts = resolve("work/mlflow/artifacts").as_uri() if uri.startswith("sqlite") else None
        experiment_id = client.create_experiment(_experiment(config), artifact_location=artifacts)
    run = client.create_run(
        experiment_id,
        run_name=name,
        tags={RUN_TAG: name, "srmill.config": config_digest(config)} | tags,
    )
    return str(run.info.run_id)


def end_run(client: "MlflowClient", run_id: str, status: str) -> None:
    """Tells how a run ended. A server that is away then, however long the run waited for it, is
    worth a warning: the work itself is done."""
    from mlflow.exceptions import MlflowException

    try:
        with single_attempts():
            client.set_terminated(run_id, status)
    except MlflowException as error:
        told = str(error).splitlines()[0][:300]
        log.warning("MLflow still shows the run as running, though it is %s (%s)", status, told)


@contextmanager
def single_attempts() -> Iterator[None]:
    """Requests to MLflow end after 30 s, unless the environment says otherwise: its own retries
    would hold a caller in one of them for minutes, unseen from outside."""
    # MLflow reads its settings from the environment at every request, and only there.
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def log_params(client: "MlflowClient", run_id: str, values: dict[str, Any]) -> None:
    """Logs nested settings as flat parameters; what a resumed run has logged already stays."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    flat = {name: str(value)[:500] for name, value in _flatten(values) if name not in known}
    client.log_batch(run_id, params=[Param(name, value) for name, value in flat.items()])


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def _experiment(config: Config) -> str:
    assert config.mlflow.experiment is not None
    return config.mlflow.experiment
