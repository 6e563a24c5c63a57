"""Keeps the record of the retraining that runs: at its start, at each step, and at its end."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pipelines.config.schema import Config
from pipelines.errors import BudgetSpentError, UserError, first_line
from pipelines.registry.register import outcome
from pipelines.retrain.budget import Budget
from pipelines.retrain.history import (
    BEAT_S,
    DONE,
    Cost,
    Given,
    Retraining,
    Retrainings,
    Verdict,
    photos_of,
)
from pipelines.retrain.lease import Turn
from pipelines.retrain.steps import Step, stages_of
from pipelines.runs.names import run_checkpoints, run_name
from pipelines.storage.clock import Clock, utc

log = logging.getLogger(__name__)


class Journal:
    """Writes the record of a retraining, as long as it is this job's turn.

    Args:
        record: the record as it was when this start began.
        budget: counts what this start costs.
    """

    def __init__(
        self,
        config: Config,
        kept: Retrainings,
        record: Retraining,
        budget: Budget,
        turn: Turn,
        clock: Clock = Clock(),
    ) -> None:
        self.budget = budget
        self._config, self._kept, self._turn, self._clock = config, kept, turn, clock
        self._record, self._before = record, record.cost
        self._lock, self._ended = threading.Lock(), threading.Event()

    def begins(self, step: Step) -> None:
        """Notes that a step begins, and what the steps before it have made.

        Raises:
            UserError: the store fails, or another job has taken over before the registration.
        """
        if step.job == "register":
            self._turn.check()
        changes: dict[str, Any] = {"step": step.name, "steps": trained_steps(self._config)}
        if step.job != "shard" and self._record.after is None:
            changes["after"] = photos_of(self._config)
        self._write(**changes)

    def registered(self, version: str) -> None:
        """Notes the version that came of it, and what the gate decided about it.

        Raises:
            UserError: the store or the registry fails.
        """
        found = outcome(self._config, version)
        verdict = Verdict.PROMOTED if found.promoted else Verdict.REGISTERED
        self._end(
            verdict=Verdict.REFUSED if found.refused else verdict,
            registered=version,
            against=found.against,
            reason=found.reason,
        )

    def nothing_new(self, reason: str) -> None:
        """Notes that the retraining ended once its photos were sharded, and why. One that had
        registered a version before stays what it was.

        Raises:
            UserError: the store or the registry fails.
        """
        if self._record.registered is not None:
            return self.registered(self._record.registered)
        self._end(verdict=Verdict.NOTHING, after=photos_of(self._config), reason=reason)

    @contextmanager
    def kept(self) -> Iterator["Journal"]:
        """Writes the record every few seconds during the block, and how the block ended."""
        self._write()
        beat = threading.Thread(target=self._beat, daemon=True, name="record")
        beat.start()
        try:
            yield self
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._ended.set()
            beat.join()

    def _failed(self, error: BaseException) -> None:
        if self._ended.is_set():
            return  # the work itself is done
        verdict = Verdict.INTERRUPTED
        if isinstance(error, BudgetSpentError):
            verdict = Verdict.STOPPED
        elif isinstance(error, Exception):
            verdict = Verdict.FAILED
        # An error from a Ray task carries the remote traceback; its cause does not.
        reason = first_line(getattr(error, "cause", None) or error)
        try:
            self._end(verdict=verdict, reason=reason, steps=trained_steps(self._config))
        except UserError as other:
            log.warning("the record of this retraining does not say how it ended: %s", other)

    def _beat(self) -> None:
        while not self._clock.wait(self._ended, BEAT_S):
            try:
                self._write()
            except UserError as error:
                log.warning("cannot write the record of this retraining: %s", error)

    def _end(self, **changes: Any) -> None:
        self._ended.set()
        self._write(ended=utc(time.time()), **changes)

    def _write(self, **changes: Any) -> None:
        with self._lock:
            self._record = replace(
                self._record,
                updated=utc(time.time()),
                cost=self._before + self.budget.cost,
                **changes,
            )
            # The record may belong to the job that took over.
            if self._turn.is_newest:
                self._kept.save(self._record)


def open_journal(config: Config, inputs: Given, turn: Turn) -> Journal:
    """Returns the journal of the retraining that begins, or goes on.

    Records of jobs that were killed are set to `interrupted`: it is this job's turn now.

    Raises:
        UserError: the store fails, or a record in it is damaged.
    """
    kept = Retrainings(turn.store)
    records = kept.all()
    for record in records:
        if record.verdict is Verdict.RUNNING:
            kept.save(replace(record, verdict=Verdict.INTERRUPTED, ended=record.updated))
    same = [record for record in records if record.run == config.run.name]
    budget = Budget(config.retrain, spent_on(same))
    return Journal(config, kept, _begun(config, inputs, same), budget, turn)


def _begun(config: Config, inputs: Given, same: Sequence[Retraining]) -> Retraining:
    """Returns the record of a retraining that begins, or that goes on.

    Args:
        same: all records of its `run.name`, the newest first.
    """
    now = utc(time.time())
    for record in same:
        if record.given == inputs:
            starts = record.starts + 1
            again = replace(record, starts=starts, updated=now, ended=None, after=None)
            return replace(again, verdict=Verdict.RUNNING, reason="")
    assert config.run.name is not None
    assert config.mlflow.model is not None
    # Photos that an unfinished start of this run has added are added by this retraining.
    unfinished = bool(same) and same[0].verdict not in DONE
    before = same[0].before if unfinished else photos_of(config)
    return Retraining(inputs, config.run.name, config.mlflow.model, now, now, before=before)


def spent_on(records: Sequence[Retraining]) -> Cost:
    """Returns what retrainings cost together."""
    return sum((record.cost for record in records), Cost())


def trained_steps(config: Config) -> int:
    """Returns the optimizer steps that the runs of a chain's stages have, together.

    Raises:
        UserError: the store fails.
    """
    newest = (
        run_checkpoints(config, run_name(config, name)).newest() for name in stages_of(config)
    )
    return sum(checkpoint.step for checkpoint in newest if checkpoint)
