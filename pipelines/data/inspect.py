"""Reads every new file of a source once, in parallel, and tells photos from unusable files."""

import hashlib
from collections.abc import Sequence

from pipelines.cluster import Mapper
from pipelines.config.schema import ShardConfig
from pipelines.data.images import UnusableError, decode_photo, photo_size
from pipelines.data.quality.benchmark import BenchmarkSets, Compared
from pipelines.data.sources.entries import Entry, read
from pipelines.data.sources.inventory import Inventory, Photo, Skipped
from pipelines.data.sources.known import KnownFiles
from pipelines.progress import progress

#: The number of files that one task reads.
FILES_PER_TASK = 8


def inspect(
    entries: Sequence[Entry],
    settings: ShardConfig,
    mapper: Mapper,
    known: KnownFiles = KnownFiles(),
    benchmark: BenchmarkSets = BenchmarkSets(),
) -> Inventory:
    """Reads every file that is not known, identifies it by its sha256 and measures the photo.

    It decodes no pixel where `shard.quality` is false.

    Args:
        benchmark: what the photos are compared with.

    Raises:
        UserError: object storage does not answer, or an image of the benchmark cannot be read.
    """
    found: list[Photo | Skipped | None] = [*known.find(entries, settings, benchmark.identity)]
    unread = [place for place, item in enumerate(found) if item is None]
    chunks = [unread[i : i + FILES_PER_TASK] for i in range(0, len(unread), FILES_PER_TASK)]
    todo = bool(unread) and settings.quality
    compared = Compared(benchmark.identity, benchmark.features(mapper)) if todo else None
    with progress("inspect", total=len(unread), unit="file") as bar:
        calls = [([entries[place] for place in chunk], settings, compared) for chunk in chunks]
        for chunk, results in zip(chunks, mapper(inspect_files, calls), strict=True):
            for place, item in zip(chunk, results, strict=True):
                found[place] = item
            bar.update(len(chunk))
    every = [item for item in found if item is not None]
    assert len(every) == len(entries)
    return Inventory.of(every, len(entries) - len(unread))


def inspect_files(
    entries: Sequence[Entry], settings: ShardConfig, compared: Compared | None
) -> list[Photo | Skipped]:
    """Inspects a few files, as one Ray task."""
    return [inspect_file(entry, settings, compared) for entry in entries]


def inspect_file(
    entry: Entry, settings: ShardConfig, compared: Compared | None = None
) -> Photo | Skipped:
    """Returns the photo in a file, or the reason why it gives none.

    Args:
        compared: the benchmark to compare it with; without one the photo is not measured.

    Raises:
        UserError: object storage does not answer.
    """
    try:
        data = read(entry, settings.max_file_mib * 2**20)
        sha256, size = hashlib.sha256(data).hexdigest(), photo_size(data, settings.max_megapixels)
        if compared is None:
            return Photo(entry, sha256, size)
        pixels = decode_photo(data, settings.max_megapixels)
        return Photo(entry, sha256, size, compared.measure(pixels))
    except UnusableError as error:
        return Skipped.of(entry, error.reason, failure=error.failure)
