"""Lets one job at a time retrain a model, and numbers those that do, so that none acts too late.

Whoever holds the lease has the newest number. Numbers only grow: each is a file, which one job can
create. A job that was taken for dead, and wakes up, finds a newer number, and registers nothing.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import ClassVar

from pipelines.config.schema import Config
from pipelines.errors import BusyError, UserError, told
from pipelines.registry.moves import who
from pipelines.retrain.history import model_store
from pipelines.runs.lease import POLICY, Words, lease
from pipelines.storage.clock import utc
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import Store, open_store
from pipelines.storage.typed import Document, read_typed, to_json

_FOLDER = "turns/"
_DIGITS = 8
#: The numbers that are kept.
_KEPT = 100


@dataclass(frozen=True)
class Holder(Document):
    """Whoever holds a lease, or held it last.

    Attributes:
        who: user and machine.
        process: the process id there.
        run: the `run.name` of its retraining.
        since: the time at which it got the lease, in UTC.
        released: the time at which it gave the lease back; None if it holds it, or was killed.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it"

    who: str
    process: int
    run: str
    since: str
    released: str | None = None

    def __str__(self) -> str:
        return told(f"{self.who} (process {self.process}, run.name={self.run}) since {self.since}")


@dataclass(frozen=True)
class Turn:
    """The right to retrain a model, as long as no other job has a newer number.

    Attributes:
        store: holds a file for each number.
        number: this holder's number, which no other one gets.
    """

    store: Store
    model: str
    number: int
    holder: Holder

    @property
    def is_newest(self) -> bool:
        """True as long as no other job has got the lease since.

        Raises:
            UserError: the store fails.
        """
        return _newest(self.store) == self.number

    def check(self) -> None:
        """Checks that no other job has got the lease since.

        Raises:
            UserError: one has, or the store fails.
        """
        if not self.is_newest:
            raise UserError(
                f"model '{self.model}' is being retrained by {_told(self.store)}, which took over "
                "from this job: let the other one go on."
            )


@contextmanager
def turn(config: Config, policy: RetryPolicy = POLICY) -> Iterator[Turn]:
    """Holds the lease on the retraining of `mlflow.model` during the block.

    A job that dies keeps it for 45 s under `s3://`, and not at all in a folder. The main thread
    must call it.

    Raises:
        BusyError: another job retrains the model.
        UserError: another job has taken over, or the store fails.
    """
    model, run = config.mlflow.model, config.run.name
    assert model is not None
    assert run is not None
    store = open_store(model_store(config).location, policy=policy)
    words = Words(
        f"model '{model}'",
        lambda _: BusyError(
            f"model '{model}' is being retrained by {_told(store)}: wait for it, or stop it."
        ),
    )
    with lease(store, words, policy):
        mine = _next(store, model, Holder(who(), os.getpid(), run, utc(time.time())))
        try:
            yield mine
        finally:
            _release(mine)


def last_holder(config: Config) -> Holder | None:
    """Returns whoever holds the lease on `mlflow.model`, or held it last; None if nobody ever did.

    Raises:
        UserError: the store fails, or what it holds is damaged.
    """
    return _holder(model_store(config))


def _holder(store: Store) -> Holder | None:
    number = _newest(store)
    if number == 0:
        return None
    return read_typed(Holder, store.read(_file(number)), f"{store.location}/{_file(number)}")


def _next(store: Store, model: str, holder: Holder) -> Turn:
    """Returns the turn after the newest one, and forgets those of long ago."""
    while True:
        number = _newest(store) + 1
        if store.create(_file(number), to_json(holder)):
            break
    for name in store.names(_FOLDER):
        # Not the last ones: another job that has just listed them would create one of them again.
        if _number(name) <= number - _KEPT:
            store.delete(name)
    return Turn(store, model, number, holder)


def _release(turn: Turn) -> None:
    # A store that is away then must not hide how the work ended; the lease itself is given back.
    with suppress(UserError):
        if turn.is_newest:
            ended = replace(turn.holder, released=utc(time.time()))
            turn.store.write(_file(turn.number), to_json(ended))


def _newest(store: Store) -> int:
    return max((_number(name) for name in store.names(_FOLDER)), default=0)


def _number(name: str) -> int:
    text = name.removeprefix(_FOLDER).removesuffix(".json")
    return int(text) if text.isdecimal() else 0


def _file(number: int) -> str:
    return f"{_FOLDER}{number:0{_DIGITS}}.json"


def _told(store: Store) -> str:
    """Returns the holder of the newest number in words."""
    with suppress(UserError):
        holder = _holder(store)
        # A job that has just begun may have no number yet.
        if holder is not None and holder.released is None:
            return str(holder)
    return "another job"
