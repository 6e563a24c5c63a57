"""Finds runs of retrainings that are over, and removes their checkpoints.

A bundle holds all that its version needs, so a run is needed only to go on with it. Runs that no
record of a retraining names are left alone: nobody here knows whether they are needed.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.models.load import CHAMPION
from pipelines.registry.moves import PREVIOUS, Moves
from pipelines.retrain.history import (
    Retraining,
    Retrainings,
    Verdict,
    models_with_records,
    store_of,
    verdict_at,
)
from pipelines.runs.lease import lease, of_run
from pipelines.runs.names import run_checkpoints
from pipelines.storage.clock import from_utc
from pipelines.storage.store import LocalStore, open_store


@dataclass(frozen=True)
class Rule:
    """When a retraining's runs may go: it ended before `before` (seconds since 1970), and it is
    none of the newest `keep` of its model."""

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

    Args:
        now: the time, in seconds since 1970.

    Raises:
        UserError: the store or the registry fails, or a record is damaged.
    """
    records, kept = {}, {}
    for model in models_with_records(config):
        found = Retrainings(store_of(config, model)).all()
        needed = _aliases(config, model)
        for place, record in enumerate(found):
            # The newest record of a run counts.
            if record.run not in records:
                records[record.run] = record
                kept[record.run] = _reason(record, place, needed, rule, now)
    runs = []
    for name, size in sorted(_sizes(config).items()):
        run = _run_of(name, records)
        reason = "no retraining made it" if run is None else kept[run]
        runs.append(Run(name, size, records[run] if run is not None else None, reason))
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
    record: Retraining, place: int, needed: Mapping[str, str], rule: Rule, now: float
) -> str | None:
    """Returns why the runs of a retraining stay, in words; None if they may go.

    Args:
        place: the number of newer retrainings of its model.
        needed: the aliases of the model, by version.
    """
    verdict = verdict_at(record, now)
    if verdict is Verdict.RUNNING:
        return "its retraining runs"
    version = record.registered
    if version is not None and version in needed:
        return f"version {version} is {needed[version]}"
    if place < rule.keep:
        return f"one of the newest {rule.keep}"
    if from_utc(record.ended or record.updated) >= rule.before:
        return "not old enough"
    return None


def _aliases(config: Config, model: str) -> dict[str, str]:
    """Returns `champion` and `previous` of a model, by version; nothing of one that was never
    registered."""
    client = tracking.connect(config.mlflow, create=False)
    moves = Moves(client, model)
    found = {moves.alias(alias): alias for alias in (PREVIOUS, CHAMPION)}
    return {version: alias for version, alias in found.items() if version is not None}


def _run_of(name: str, records: Mapping[str, Retraining]) -> str | None:
    """Returns the `run.name` of the retraining whose stage a run is; None if there is none.

    Of `a` and `a-b`, the run `a-b-joint` belongs to the longer name.
    """
    found = [run for run in records if name.startswith(f"{run}-")]
    return max(found, key=len, default=None)


def _sizes(config: Config) -> dict[str, int]:
    """Returns the bytes of every run in `run.storage`, by name."""
    store = open_store(config.run.storage, policy=config.stream.policy)
    sizes: dict[str, int] = {}
    for path, size in store.sizes().items():
        name, slash, _ = path.partition("/")
        if slash:
            sizes[name] = sizes.get(name, 0) + size
    return sizes
