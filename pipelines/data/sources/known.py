"""Remembers what each photo file of a source was, so that a later job reads only new files.

A file is known by its place, name, size and mark: the ETag of an object, or the time of a file's
last change. The record stands with the dataset, and is no part of its identity.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pipelines.config.schema import ShardConfig
from pipelines.data.images import Size
from pipelines.data.quality.figures import Quality
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
        quality: see `Photo`.
    """

    container: str
    name: str
    size: NonNegativeInt
    mark: str
    sha256: Sha256
    width: PositiveInt
    height: PositiveInt
    quality: Quality | None = None

    @staticmethod
    def of(photo: Photo) -> "KnownFile":
        """Returns the record of a photo file."""
        entry, size = photo.entry, photo.size
        place = entry.container, entry.name, entry.size, entry.mark
        return KnownFile(*place, photo.sha256, size.width, size.height, photo.quality)


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

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, int, str], KnownFile]:
        return {(f.container, f.name, f.size, f.mark): f for f in self.files}

    def lists(self, entry: Entry) -> bool:
        """Returns True for a photo file that the last job found, too."""
        return self._file(entry) is not None

    def find(
        self, entries: Iterable[Entry], settings: ShardConfig, compared: str
    ) -> list[Photo | None]:
        """Returns the photo in each file; None for a file that has to be read.

        Args:
            compared: the identity of the benchmark with which photos must have been compared.
        """
        found: list[Photo | None] = []
        for entry in entries:
            file = self._file(entry)
            # Whoever reads a file that is too large now says so.
            if file is None or _exceeds(file, settings) or _lacks(file, settings, compared):
                found.append(None)
            else:
                size = Size(file.width, file.height)
                found.append(Photo(entry, file.sha256, size, file.quality))
        return found

    def _file(self, entry: Entry) -> KnownFile | None:
        place = entry.container, entry.name, entry.size, entry.mark
        return self._by_place.get(place) if _can_be_known(entry) else None


def _can_be_known(entry: Entry) -> bool:
    """Returns False for a file that no listing can tell from a changed one, or JSON cannot name."""
    return bool(entry.mark) and entry.label == entry.name


def _lacks(file: KnownFile, settings: ShardConfig, compared: str) -> bool:
    return settings.quality and (file.quality is None or file.quality.compared != compared)


def _exceeds(file: KnownFile, settings: ShardConfig) -> bool:
    return (
        file.size > settings.max_file_mib * 2**20
        or file.width * file.height > settings.max_megapixels * 1e6
    )
