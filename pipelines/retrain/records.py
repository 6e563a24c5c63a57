"""Keeps, for every step of a chain that succeeded, the inputs that it had."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.config.schema import Config
from pipelines.errors import listing
from pipelines.retrain.inputs import Inputs
from pipelines.storage.digests import canonical, digest
from pipelines.storage.store import Store, open_store
from pipelines.storage.typed import Document, read_typed, to_json


@dataclass(frozen=True)
class Record(Document):
    """A step that succeeded, and the inputs that decided its result, ready for JSON."""

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and the step checks its result anew"

    step: str
    inputs: Inputs


def records_of(config: Config) -> Store:
    """Returns the store that holds the records of the steps of `run.name`'s chain."""
    place = f"{config.retrain.records.rstrip('/')}/{config.run.name}"
    return open_store(place, policy=config.stream.policy)


def save(store: Store, record: Record) -> None:
    """Writes the record of a step, in place of its last one."""
    store.write(_file(record.step), to_json(record))


def load(store: Store, step: str) -> Record | None:
    """Reads the record of a step; None if it never succeeded.

    Raises:
        UserError: the record is damaged, or another version of SRMill wrote it.
    """
    name = _file(step)
    if store.size(name) is None:
        return None
    return read_typed(Record, store.read(name), f"{store.location}/{name}")


def reason(record: Record | None, inputs: Inputs) -> str:
    """Says in one line why a step runs, or that it only checks its result."""
    if record is None:
        return "runs: never done"
    if names := changed(record, inputs):
        return f"runs: {listing(names)} changed"
    return f"same inputs as before ({digest(inputs)[:6]}…): checks its result"


def changed(record: Record, inputs: Inputs) -> list[str]:
    """Returns the names of the inputs that are not what they were when a step succeeded."""
    # As JSON, in which a record is kept: there a tuple is a list.
    now, before = (
        {name: canonical(value) for name, value in values.items()}
        for values in (inputs, record.inputs)
    )
    return [name for name in now | before if now.get(name) != before.get(name)]


def _file(step: str) -> str:
    return f"{step.replace(' ', '-')}.json"
