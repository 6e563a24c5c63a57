"""Reads every file of a source once, in parallel, and tells photos from unusable files."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.cluster import Mapper
from pipelines.config.schema import ShardConfig
from pipelines.data.images import Size, UnusableError, photo_size
from pipelines.data.sources.entries import Entry, printable, read
from pipelines.progress import progress

#: The number of files that one task reads.
FILES_PER_TASK = 8


@dataclass(frozen=True)
class Photo:
    """A photo file that can be opened, identified by the sha256 of its bytes."""

    entry: Entry
    sha256: str
    size: Size


@dataclass(frozen=True)
class Skipped:
    """A file that gives no photo.

    Attributes:
        failure: True for a broken file; False for an unwanted one.
    """

    name: str
    reason: str
    failure: bool
    container: str

    @staticmethod
    def of(entry: Entry, reason: str, *, failure: bool) -> "Skipped":
        """Returns the record of an entry that is skipped."""
        return Skipped(entry.label, reason, failure, printable(entry.container))


@dataclass
class Inventory:
    """The files of a source: distinct photos in the source's order, and skipped files.

    Attributes:
        num_files: the number of all files, skipped ones too.
    """

    num_files: int
    photos: list[Photo] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """Returns the number of skipped files per reason, without details in parentheses."""
        return dict(Counter(s.reason.partition(" (")[0] for s in self.skipped).most_common())


def inspect(entries: Sequence[Entry], settings: ShardConfig, mapper: Mapper) -> Inventory:
    """Reads every file, identifies it by its sha256 and reads its header; decodes no pixel.

    Raises:
        UserError: object storage does not answer.
    """
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
    """Inspects a few files, as one Ray task."""
    return [inspect_file(entry, settings) for entry in entries]


def inspect_file(entry: Entry, settings: ShardConfig) -> Photo | Skipped:
    """Returns the photo in a file, or the reason why it gives none.

    Raises:
        UserError: object storage does not answer.
    """
    try:
        data = read(entry, settings.max_file_mib * 2**20)
        return Photo(
            entry, hashlib.sha256(data).hexdigest(), photo_size(data, settings.max_megapixels)
        )
    except UnusableError as error:
        return Skipped.of(entry, error.reason, failure=error.failure)
