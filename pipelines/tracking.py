"""Connects to MLflow: a server that is checked first, and runs that are found again by name."""

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pipelines.config.addresses import SQLITE, check_tracking
from pipelines.config.load import config_digest
from pipelines.config.schema import Config, MlflowConfig
from pipelines.errors import Terminated, UserError, redacted, told
from pipelines.mlflow_client import PatientClient, RefusedError, single_attempts
from pipelines.storage.clock import Clock
from pipelines.storage.files import local_files
from pipelines.storage.paths import resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

#: The tag that holds a run's name. Runs are found again by it.
RUN_TAG = "srmill.run"
T = TypeVar("T")


def tracking_uri(settings: MlflowConfig | None = None) -> str:
    """Returns `mlflow.uri`, else $MLFLOW_TRACKING_URI, else the sqlite file under work/."""
    configured = settings.uri if settings else None
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    uri = uri or "sqlite:///work/mlflow/mlflow.db"
    if uri.startswith(SQLITE):
        # Like every path of ours, it is relative to SRMILL_HOME and not to the process's directory.
        return f"{SQLITE}{resolve(uri.removeprefix(SQLITE))}"
    return uri


def local_database(uri: str) -> Path | None:
    """Returns the sqlite file that a tracking uri names; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def connect(
    settings: MlflowConfig | None = None, *, create: bool = True, clock: Clock | None = None
) -> "MlflowClient":
    """Returns a client for the tracking server, after the server has answered.

    The client repeats what fails on the network: for `mlflow.retry_seconds`. If the server has
    never answered this process, it does so for 10 s at most, or for two minutes if the server is
    busy. Each of its methods raises UserError when that has not helped, and RefusedError for what
    the server refuses.

    Args:
        settings: gives the address.
        create: makes a local database that is not there yet.
        clock: tells the time, and pauses.

    Raises:
        UserError: the server does not answer, the local database is missing or is none, or the
            address is neither http(s) nor sqlite.
    """
    uri = tracking_uri(settings)
    check_tracking("mlflow.uri", uri)
    if database := local_database(uri):
        if database.is_dir():
            raise UserError(
                f"{database} is a folder, and no database: correct mlflow.uri or "
                "MLFLOW_TRACKING_URI, such as sqlite:///folder/mlflow.db."
            )
        if not create and not database.exists():
            raise UserError(
                f"there is no model registry at {database}: run `make demo` once, or set "
                "SRMILL_HOME or MLFLOW_TRACKING_URI to where one is."
            )
        with local_files(database):
            database.parent.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(database)
    policy = (settings or MlflowConfig()).policy
    client = PatientClient(uri, replace(policy, clock=clock) if clock else policy)
    client.check()
    import mlflow

    mlflow.set_tracking_uri(uri)
    return cast("MlflowClient", client)


def _refuse_foreign(database: Path) -> None:
    """Refuses the sqlite file of another program, to which MLflow would add its tables."""
    if not database.is_file():
        return
    import mlflow.store.model_registry.sqlalchemy_store  # it declares its tables, as the next does
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    from mlflow.store.db.base_sql_model import Base

    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' "
                "AND name NOT LIKE 'sqlite#_%' ESCAPE '#' AND name NOT LIKE '#_alembic%' ESCAPE '#'"
            )
            tables = {name for (name,) in rows}
    except sqlite3.Error:
        return  # MLflow's client says what is wrong with it
    # While MLflow makes a database, only some of its tables are there.
    others = tables - {"alembic_version", *Base.metadata.tables}
    if others and "experiments" not in tables:
        raise UserError(
            f"{database} is the database of another program (it has a table {told(min(others))}): "
            "correct mlflow.uri or MLFLOW_TRACKING_URI."
        )


def lookup(find: Callable[..., T], *arguments: str) -> T | None:
    """Returns what `find`, a method of the client, finds; None if MLflow has no such thing.

    Raises:
        UserError: MLflow fails for any other reason.
    """
    try:
        return find(*arguments)
    except RefusedError as error:
        # A missing alias is reported as an invalid parameter.
        if error.code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def create_unless_there(create: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Creates something in MLflow, unless another job has created it meanwhile."""
    try:
        create(*arguments, **options)
    except RefusedError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise


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
    name_of_experiment = _experiment(config.mlflow)
    experiment = client.get_experiment_by_name(name_of_experiment)
    if experiment is None:
        uri = tracking_uri(config.mlflow)
        artifacts = resolve("work/mlflow/artifacts").as_uri() if uri.startswith("sqlite") else None
        create_unless_there(
            client.create_experiment, name_of_experiment, artifact_location=artifacts
        )
        experiment = client.get_experiment_by_name(name_of_experiment)
        assert experiment is not None
    run = client.create_run(
        experiment.experiment_id,
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
    except (MlflowException, UserError) as error:
        told = redacted(str(error).splitlines()[0][:300])
        log.warning("MLflow still shows the run as running, though it is %s (%s)", status, told)


def log_params(client: "MlflowClient", run_id: str, values: dict[str, Any]) -> None:
    """Logs nested settings as flat parameters. A parameter that the run has already stays."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    flat = {name: str(value)[:500] for name, value in _flatten(values) if name not in known}
    client.log_batch(run_id, params=[Param(name, value) for name, value in flat.items()])


def allowed(name: str) -> str:
    """Returns the name of a metric or tag without the characters that MLflow refuses."""
    return re.sub(r"[^\w\-./ ]", ".", name)


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
