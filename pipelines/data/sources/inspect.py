"""Looks at every file of a source once, in parallel: which photos there are, and which are not."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.cluster import Mapper
from pipelines.config.schema import ShardConfig
from pipelines.data.images import Size, UnusableError, photo_size
from pipelines.data.sources.entries import Entry, read
from pipelines.progress import progress

#: Files that one task looks at.
FILES_PER_TASK = 8


@dataclass(frozen=True)
class Photo:
    """A photo file that can be opened, identified by the sha256 of its bytes."""

    entry: Entry
    sha256: str
    size: Size


@dataclass(frozen=True)
class Skipped:
    """A file that gave nothing. `failure`: it is broken, not merely unwanted."""

    name: str
    reason: str
    failure: bool
    container: str

    @staticmethod
    def of(entry: Entry, reason: str, *, failure: bool) -> "Skipped":
        return Skipped(entry.label, reason, failure, entry.container)


@dataclass
class Inventory:
    """The distinct photos of a source in its order, and what was left out of `num_files`."""

    num_files: int
    photos: list[Photo] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """How many were skipped for which reason, details in parentheses left out."""
        return dict(Counter(s.reason.partition(" (")[0] for s in self.skipped).most_common())


def inspect(entries: Sequence[Entry], settings: ShardConfig, mapper: Mapper) -> Inventory:
    """Reads every file, identifies it and opens its header; no pixel is decoded yet."""
    chunks = [entries[i : i + FILES_PER_TASK] for i in range(0, len(entries), FILES_PER_TASK)]
    inventory = Inventory(len(entries))
    seen: dict[str, str] = {}
    with progress("inspect", total=len(entries), unit="file") as bar:
        for found in mapper(inspect_files, [(chunk, settings) for chunk in chunks]):
            for item in found:
                if isinstance(item, Skipped):
                    inventory.skipped.append(item)
                elif item.sha256 in seen:
                    reason = f"duplicate (of {seen[item.sha256]})"
                    inventory.skipped.append(Skipped.of(item.entry, reason, failure=False))
                else:
                    seen[item.sha256] = item.entry.label
                    inventory.photos.append(item)
            bar.update(len(found))
    return inventory


def inspect_files(entries: Sequence[Entry], settings: ShardConfig) -> list[Photo | Skipped]:
    """One task."""
    return [inspect_file(entry, settings) for entry in entries]


def inspect_file(entry: Entry, settings: ShardConfig) -> Photo | Skipped:
    """A file as a photo, or why it is none."""
    try:
        data = read(entry, settings.max_file_mib * 2**20)
        return Photo(
            entry, hashlib.sha256(data).hexdigest(), photo_size(data, settings.max_megapixels)
        )
    except UnusableError as error:
        return Skipped.of(entry, error.reason, failure=error.failure)
