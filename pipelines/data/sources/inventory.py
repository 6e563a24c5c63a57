"""The inventory of a source: its photos, and the files that give none."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.data.images import Size
from pipelines.data.quality.figures import Quality
from pipelines.data.sources.entries import Entry, printable


@dataclass(frozen=True)
class Photo:
    """A photo file that can be opened, identified by the sha256 of its bytes.

    Attributes:
        quality: the figures by which it is judged; None where `shard.quality` is false.
    """

    entry: Entry
    sha256: str
    size: Size
    quality: Quality | None = None


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
        num_known: the number of files that were not read, since an earlier job had read them.
        files: every photo file, those of equal content too.
    """

    num_files: int
    num_known: int = 0
    files: list[Photo] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @staticmethod
    def of(found: Sequence[Photo | Skipped], num_known: int) -> "Inventory":
        """Returns the inventory of files in the source's order; of equal ones the first stays."""
        inventory = Inventory(len(found), num_known)
        seen: dict[str, str] = {}
        for item in found:
            if isinstance(item, Skipped):
                inventory.skipped.append(item)
                continue
            inventory.files.append(item)
            if item.sha256 in seen:
                reason = f"duplicate (of {seen[item.sha256]})"
                inventory.skipped.append(Skipped.of(item.entry, reason, failure=False))
            else:
                seen[item.sha256] = item.entry.label
                inventory.photos.append(item)
        return inventory

    def reasons(self) -> dict[str, int]:
        """Returns the number of skipped files per reason, without details in parentheses."""
        return dict(Counter(s.reason.partition(" (")[0] for s in self.skipped).most_common())
