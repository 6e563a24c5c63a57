"""Remembers what each photo file of a source was, so that a later job reads only new files.

A file is known by its place, name, size and mark: the ETag of an object, or the time of a file's
last change. The record stands with the dataset, and is no part of its identity.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pipelines.config.schema import ShardConfig
from pipelines.data.images import Size
from pipelines.data.sources.entries import Entry
from pipelines.data.sources.inventory import Photo
from pipelines.errors import UserError
from pipelines.storage.forms import NonNegativeInt, PositiveInt, Sha256
from pipelines.storage.store import Store
from pipelines.storage.typed import Document, read_typed, to_json

#: A name that nobody else gives to a file: whatever it holds, it is ours.
FILE_NAME = "srmill-photos.json"


@dataclass(frozen=True)
class KnownFile:
    """A photo file as a listing names it, and what was found in it.

    Attributes:
        container, name, size, mark: see `Entry`.
        width, height: pixels, as the photo is stored.
    """

    container: str
    name: str
    size: NonNegativeInt
    mark: str
    sha256: Sha256
    width: PositiveInt
    height: PositiveInt

    @staticmethod
    def of(photo: Photo) -> "KnownFile":
        """Returns the record of a photo file."""
        entry, size = photo.entry, photo.size
        place = entry.container, entry.name, entry.size, entry.mark
        return KnownFile(*place, photo.sha256, size.width, size.height)


@dataclass(frozen=True)
class KnownFiles(Document):
    """The photo files that the last job found, in the order of its sources."""

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and jobs/shard.py reads all photos again"

    files: tuple[KnownFile, ...] = ()

    @staticmethod
    def load(store: Store) -> "KnownFiles":
        """Returns the record in a dataset's place; an empty one if it is absent or damaged.

        Raises:
            UserError: the store fails.
        """
        if store.size(FILE_NAME) is None:
            return KnownFiles()
        data = store.read(FILE_NAME)
        try:
            return read_typed(KnownFiles, data, f"{store.location}/{FILE_NAME}")
        except UserError as error:
            print(f"Reads all photos again: {error}", flush=True)
            return KnownFiles()

    def update(self, store: Store, photos: Iterable[Photo]) -> None:
        """Writes the record of these photo files, unless it is this one.

        Raises:
            UserError: the store fails.
        """
        now = KnownFiles(tuple(KnownFile.of(p) for p in photos if _can_be_known(p.entry)))
        if now != self:
            store.write(FILE_NAME, to_json(now))

    def find(self, entries: Iterable[Entry], settings: ShardConfig) -> list[Photo | None]:
        """Returns the photo in each file; None for a file that has to be read."""
        known = {(f.container, f.name, f.size, f.mark): f for f in self.files}
        found: list[Photo | None] = []
        for entry in entries:
            file = known.get((entry.container, entry.name, entry.size, entry.mark))
            # Whoever reads a file that is too large now says so.
            if file is None or not _can_be_known(entry) or _exceeds(file, settings):
                found.append(None)
            else:
                found.append(Photo(entry, file.sha256, Size(file.width, file.height)))
        return found


def _can_be_known(entry: Entry) -> bool:
    """Returns False for a file that no listing can tell from a changed one, or JSON cannot name."""
    return bool(entry.mark) and entry.label == entry.name


def _exceeds(file: KnownFile, settings: ShardConfig) -> bool:
    return (
        file.size > settings.max_file_mib * 2**20
        or file.width * file.height > settings.max_megapixels * 1e6
    )
