"""Connects to MLflow: a server that is checked first, and runs that are found again by name."""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.config.load import config_digest
from pipelines.config.schema import Config, MlflowConfig
from pipelines.errors import Terminated, UserError
from pipelines.storage.paths import resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

#: The tag that holds a run's name. Runs are found again by it.
RUN_TAG = "srmill.run"
_SQLITE = "sqlite:///"
T = TypeVar("T")


def tracking_uri(settings: MlflowConfig | None = None) -> str:
    """Returns `mlflow.uri`, else $MLFLOW_TRACKING_URI, else the sqlite file under work/."""
    configured = settings.uri if settings else None
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or "sqlite:///work/mlflow/mlflow.db"
    if uri.startswith(_SQLITE):
        # Like every path of ours, it is relative to SRMILL_HOME and not to the process's directory.
        return f"{_SQLITE}{resolve(uri.removeprefix(_SQLITE))}"
    return uri


def local_database(uri: str) -> Path | None:
    """Returns the sqlite file that a tracking uri names; None for a server."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def connect(settings: MlflowConfig | None = None, *, create: bool = True) -> "MlflowClient":
    """Returns a client for the tracking server, after the server has answered.

    Args:
        settings: gives the address.
        create: makes a local database that is not there yet.

    Raises:
        UserError: the server does not answer, the local database is missing, or the address is
            neither http(s) nor sqlite.
    """
    uri = tracking_uri(settings)
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif database := local_database(uri):
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
    """Returns a client for a tracking server that need not answer yet. MLflow logs only warnings
    from then on."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow

    # After the import, which sets levels of its own: a new database announces every migration.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow.MlflowClient(uri)


def lookup(find: Callable[..., T], *arguments: str) -> T | None:
    """Returns what `find`, a method of the client, finds; None if MLflow has no such thing.

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
            # It answers. MLflow's client has the credentials; this request has none.
            return
        reason: object = error
    except (OSError, ValueError) as error:
        reason = error
    raise UserError(
        f"the MLflow server at {uri} does not answer ({reason}): start it (`make up` starts a "
        "local one), or set mlflow.uri or MLFLOW_TRACKING_URI to one that runs."
    )


def find_run(client: "MlflowClient", settings: MlflowConfig, name: str) -> str | None:
    """Returns the id of the newest MLflow run called `name`; None if there is none."""
    experiment = client.get_experiment_by_name(_experiment(settings))
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`{RUN_TAG}` = '{name}'", max_results=1
    )
    return runs[0].info.run_id if runs else None


def open_run(client: "MlflowClient", config: Config, name: str, tags: dict[str, str]) -> str:
    """Returns the id of the MLflow run called `name`, which is RUNNING again, or of a new one."""
    if run_id := find_run(client, config.mlflow, name):
        client.update_run(run_id, status="RUNNING")
        return run_id
    return new_run(client, config, name, tags)


def new_run(client: "MlflowClient", config: Config, name: str, tags: dict[str, str]) -> str:
    """Returns the id of a new MLflow run in the recipe's experiment. Creates the experiment if it
    is missing."""
    experiment = client.get_experiment_by_name(_experiment(config.mlflow))
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        uri = tracking_uri(config.mlflow)
        artifacts = resolve("work/mlflow/artifacts").as_uri() if uri.startswith("sqlite") else None
        experiment_id = client.create_experiment(
            _experiment(config.mlflow), artifact_location=artifacts
        )
    run = client.create_run(
        experiment_id,
        run_name=name,
        tags={RUN_TAG: name, "srmill.config": config_digest(config)} | tags,
    )
    return str(run.info.run_id)


@contextmanager
def active_run(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Ends an MLflow run with the block.

    The run is FINISHED, or KILLED if the process was asked to stop, or FAILED after any other
    exception, which goes on. See `end_run` for a server that is away.
    """
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (Terminated, KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        end_run(client, run_id, status)


def end_run(client: "MlflowClient", run_id: str, status: str) -> None:
    """Tells MLflow how a run ended: FINISHED, FAILED or KILLED.

    A server that does not answer then is a warning and no error: the work itself has ended.
    """
    from mlflow.exceptions import MlflowException

    try:
        with single_attempts():
            client.set_terminated(run_id, status)
    except MlflowException as error:
        told = str(error).splitlines()[0][:300]
        log.warning("MLflow still shows the run as running, though it is %s (%s)", status, told)


@contextmanager
def single_attempts() -> Iterator[None]:
    """Limits requests to MLflow inside the block to one attempt of at most 30 s.

    Settings of the environment win. MLflow's own retries would block the caller for minutes.
    """
    # MLflow reads these settings from the environment, at every request, and nowhere else.
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def log_params(client: "MlflowClient", run_id: str, values: dict[str, Any]) -> None:
    """Logs nested settings as flat parameters. A parameter that the run has already stays."""
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


def _experiment(settings: MlflowConfig) -> str:
    assert settings.experiment is not None
    return settings.experiment
