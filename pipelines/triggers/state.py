"""The memory of a trigger: the photos that its last start saw, and how that start ended."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.storage.store import Store
from pipelines.storage.typed import Document, read_typed, to_json


@dataclass(frozen=True)
class Start:
    """A retraining that a trigger has started.

    Attributes:
        number: counts the starts.
        run: its `run.name`.
        at: the time of the start, in seconds since 1970.
        ended: `succeeded`, `failed` or `stopped`; None as long as nobody knows.
    """

    number: int
    run: str
    at: float
    ended: str | None = None

    @property
    def job(self) -> str:
        """The name of the job, which no other start has."""
        return f"{self.run}-{self.number}"


@dataclass(frozen=True)
class Watched(Document):
    """The state of a trigger.

    Attributes:
        source: the folder or `s3://` prefix.
        seen: a mark of each photo that was there at the last start: of its name, size and stamp.
        start: the last start; None before the first one.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and all photos count as new"

    source: str
    seen: tuple[str, ...] = ()
    start: Start | None = None


def load(store: Store, name: str, source: str) -> Watched:
    """Returns the state of the trigger that is called `name`.

    Photos that were seen in another source do not count.

    Raises:
        UserError: the state is damaged, or another version of SRMill wrote it.
    """
    file = _file(name)
    if store.size(file) is None:
        return Watched(source)
    state = read_typed(Watched, store.read(file), f"{store.location}/{file}")
    return state if state.source == source else Watched(source, (), state.start)


def save(store: Store, name: str, state: Watched) -> None:
    """Writes the state of the trigger that is called `name`, whole or not at all."""
    store.write(_file(name), to_json(state))


def _file(name: str) -> str:
    return f"{name}.json"
