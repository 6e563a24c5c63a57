"""Keeps, for every step of a chain that succeeded, the inputs that it had."""

import json
from dataclasses import asdict, dataclass

from pipelines.errors import UserError
from pipelines.retrain.inputs import Inputs
from pipelines.storage.digests import canonical, digest
from pipelines.storage.store import Store, open_store

VERSION = 1


@dataclass(frozen=True)
class Record:
    """A step that succeeded. `inputs` is what decided its result, ready for JSON."""

    step: str
    inputs: Inputs
    version: int = VERSION


def records_of(run: str) -> Store:
    """The store that holds the records of the chain called `run`."""
    return open_store(f"work/retrain/{run}")


def save(store: Store, record: Record) -> None:
    """Writes the record of a step, in place of its last one."""
    text = json.dumps(asdict(record), indent=2, sort_keys=True) + "\n"
    store.write(_file(record.step), text.encode())


def load(store: Store, step: str) -> Record | None:
    """Reads the record of a step; None if it never succeeded.

    Raises:
        UserError: the record is damaged, or another version of SRMill wrote it.
    """
    name = _file(step)
    if store.size(name) is None:
        return None
    try:
        record = Record(**json.loads(store.read(name)))
        readable = record.version == VERSION and isinstance(record.inputs, dict)
    except (ValueError, TypeError):
        readable = False
    if not readable:
        raise UserError(
            f"{store.location}/{name} cannot be read by this SRMill: delete it. The step then "
            "checks its result anew."
        )
    return record


def reason(record: Record | None, inputs: Inputs) -> str:
    """Says in one line why a step runs, or that it only checks its result."""
    if record is None:
        return "runs: never done"
    # As JSON, in which a record is kept: there a tuple is a list.
    now, before = (
        {name: canonical(value) for name, value in values.items()}
        for values in (inputs, record.inputs)
    )
    changed = [name for name in now | before if now.get(name) != before.get(name)]
    if changed:
        return f"runs: {', '.join(changed)} changed"
    return f"same inputs as before ({digest(inputs)[:6]}…): checks its result"


def _file(step: str) -> str:
    return f"{step.replace(' ', '-')}.json"
