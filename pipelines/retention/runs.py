"""Finds runs of retrainings that are over, and removes their checkpoints.

A bundle holds all that its version needs, so a run is needed only to go on with it. Runs that no
record of a retraining names are left alone: nobody here knows whether they are needed.
"""

import shutil
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pipelines import tracking
from pipelines.config.refusals import KEPT
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.load import CHAMPION
from pipelines.registry.moves import PREVIOUS, Moves
from pipelines.registry.register import bundle_run
from pipelines.retrain.history import (
    Retraining,
    Retrainings,
    Verdict,
    models_with_records,
    store_of,
    verdict_at,
)
from pipelines.runs.checkpoint import STATE
from pipelines.runs.lease import lease, of_run
from pipelines.runs.names import run_checkpoints
from pipelines.storage.clock import from_utc
from pipelines.storage.store import LocalStore, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Rule:
    """When a retraining's runs may go: it ended before `before` (seconds since 1970), and its
    `run.name` is none of the newest `keep` of its model."""

    before: float
    keep: int


@dataclass(frozen=True)
class Run:
    """A run in `run.storage`.

    Attributes:
        bytes: the size of all its files.
        retraining: the one whose stage it is; None if no record says so.
        kept: why it stays, in words; None if it may go.
    """

    name: str
    bytes: int
    retraining: Retraining | None
    kept: str | None


def find_runs(config: Config, rule: Rule, now: float) -> list[Run]:
    """Returns every run in `run.storage` by name, with the reason if it must stay.

    A run may go only if all retrainings of its `run.name` may, whatever their model.

    Args:
        now: the time, in seconds since 1970.

    Raises:
        UserError: the store or the registry fails, the registry is another one than that of the
            records, or a record is damaged.
    """
    made: dict[str, list[tuple[Retraining, str | None]]] = {}
    for model in models_with_records(config):
        records = Retrainings(store_of(config, model)).all()
        aliases, newest = _aliases(config, model, records), _newest(records, rule.keep)
        for record in records:
            reason = _reason(record, aliases, newest, rule, now)
            made.setdefault(record.run, []).append((record, reason))
    sizes = _sizes(config)
    owners = _owners(config, sizes)
    runs = []
    for name, size in sorted(sizes.items()):
        found = made.get(owners.get(name, ""), [])
        reasons = [reason for _, reason in found] or ["no retraining made it"]
        kept = next((reason for reason in reasons if reason is not None), None)
        runs.append(Run(name, size, found[0][0] if found else None, kept))
    return runs


def remove(config: Config, runs: Iterable[Run]) -> None:
    """Removes runs: their checkpoints first, each by its marker, so that no half is left that looks
    whole.

    Raises:
        UserError: the store fails, or a job trains one of them.
    """
    for run in runs:
        assert run.kept is None
        checkpoints = run_checkpoints(config, run.name)
        store = checkpoints.store
        with lease(store, of_run(run.name)):
            for checkpoint in checkpoints.present():
                checkpoint.remove()
            if isinstance(store, LocalStore):
                shutil.rmtree(store.directory, ignore_errors=True)
            else:
                for name in store.names():
                    store.delete(name)


def _reason(
    record: Retraining, aliases: Mapping[str, str], newest: Set[str], rule: Rule, now: float
) -> str | None:
    """Returns why the runs of a retraining stay, in words; None if they may go.

    Args:
        aliases: the aliases of its model, by version.
        newest: the newest `run.name`s of its model.
    """
    version = record.registered
    if verdict_at(record, now) is Verdict.RUNNING:
        return "its retraining runs"
    if version is not None and version in aliases:
        return f"version {version} is {aliases[version]}"
    if record.run in newest:
        return f"one of the newest {rule.keep}"
    if from_utc(record.ended or record.updated) >= rule.before:
        return "not old enough"
    return None


def _newest(records: Iterable[Retraining], count: int) -> set[str]:
    """Returns the newest `run.name`s that were trained.

    Args:
        records: those of one model, the newest start first.
    """
    trained = (record.run for record in records if record.verdict is not Verdict.NOTHING)
    return set(islice(dict.fromkeys(trained), count))


def _aliases(config: Config, model: str, records: Iterable[Retraining]) -> dict[str, str]:
    """Returns `champion` and `previous` of a model, by version; nothing of one whose retrainings
    never registered any.

    Raises:
        UserError: the registry fails, or holds none of the versions that came of the records. In
            another registry nothing would be champion.
    """
    registered = [record for record in records if record.registered is not None]
    if not registered:
        return {}
    client = tracking.connect(config.mlflow, create=False)
    if not any(_came_of(client, model, record) for record in registered):
        raise UserError(
            f"{tracking.tracking_uri(config.mlflow)} is not the registry of the retrainings of "
            f"{model}, since it has none of their versions: set mlflow.uri or MLFLOW_TRACKING_URI "
            "to theirs."
        )
    moves = Moves(client, model)
    found = {moves.alias(alias): alias for alias in (PREVIOUS, CHAMPION)}
    return {version: alias for version, alias in found.items() if version is not None}


def _came_of(client: "MlflowClient", model: str, record: Retraining) -> bool:
    """Returns True if the version that a record names was registered by its retraining."""
    version = tracking.lookup(client.get_model_version, model, str(record.registered))
    if version is None or not version.run_id:
        return False
    run = tracking.lookup(client.get_run, version.run_id)
    return run is not None and run.data.tags.get(tracking.RUN_TAG) == bundle_run(record.run)


def _owners(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Returns the `run.name` of each run whose newest checkpoint says that it is a stage's, and of
    the first weights and the teacher of that stage."""
    found: dict[str, str] = {}
    for name in names:
        owner = None if name.endswith(KEPT) else _owner(config, name)
        if owner is not None:
            found |= {name + part: owner for part in ("", *KEPT)}
    return found


def _owner(config: Config, name: str) -> str | None:
    newest = run_checkpoints(config, name).newest()
    try:
        if newest is None or STATE not in newest.files:
            return None
        state = newest.state()
        owner = str(state.config["run"]["name"])
    except (UserError, LookupError, TypeError):
        return None  # damaged, or of another version: nobody knows whose it is
    return owner if name == f"{owner}-{state.stage}" else None


def _sizes(config: Config) -> dict[str, int]:
    """Returns the bytes of every run in `run.storage`, by name."""
    store = open_store(config.run.storage, policy=config.stream.policy)
    sizes: dict[str, int] = {}
    for path, size in store.sizes().items():
        name, slash, _ = path.partition("/")
        if slash:
            sizes[name] = sizes.get(name, 0) + size
    return sizes
