"""Makes one shard of photos, as a Ray task."""

import hashlib
import json
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from webdataset import TarWriter

from pipelines.config.schema import ShardConfig
from pipelines.data.images import UnusableError, decode_photo
from pipelines.data.layout import ShardPlan
from pipelines.data.manifest import Shard
from pipelines.data.sources import Photo, Skipped, read
from pipelines.data.tiles import EXTENSION, Tile, encode_tiles
from pipelines.errors import told
from pipelines.storage.forms import Sha256
from pipelines.storage.store import Store
from pipelines.storage.typed import Document, damaged, read_typed, to_json

#: The owner of the members of every tar. Each dataset's digest, and so its sample order, depend on
#: it. It is an earlier name of the project, and must stay: a new name would change every dataset.
OWNER = "srforge"
#: The folder of a dataset with one note for each finished shard of an unfinished job.
NOTES = ".notes"


@dataclass(frozen=True)
class Written:
    """The result of a plan.

    Attributes:
        shard: the shard as the manifest lists it; None if no tile was left.
        skipped: the photos that were unusable.
    """

    shard: dict[str, Any] | None
    skipped: list[Skipped]


@dataclass(frozen=True)
class Note(Document):
    """The result of a plan, for the next attempt at the same dataset.

    Attributes:
        identity: the plan's.
        shard, skipped: see `Written`.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and jobs/shard.py makes its shard again"

    identity: Sha256
    shard: dict[str, Any] | None
    skipped: list[Skipped]


def read_note(store: Store, name: str) -> tuple[Note, Shard | None]:
    """Returns the note `name` of a store, and the shard that it describes.

    Raises:
        UserError: the note is damaged or not ours, or the store fails.
    """
    where = f"{store.location}/{name}"
    note = read_typed(Note, store.read(name), where)
    try:
        return note, None if note.shard is None else Shard.from_json(note.shard)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise damaged(Note, where, f"shard: {told(error)}") from None


def write_shard(plan: ShardPlan, store: Store, settings: ShardConfig) -> Written:
    """Makes a shard, unless an earlier attempt has made it. Writes its tar first, then its note.

    Raises:
        UserError: the store fails, or a note is damaged.
    """
    place, identity = f"{NOTES}/{plan.path}.json", plan.identity(settings)
    if store.size(place) is not None:
        note, written = read_note(store, place)
        intact = written is None or store.size(written.path) == written.bytes
        if intact and note.identity == identity:
            return Written(note.shard, note.skipped)
        store.delete(place)  # before the tar that it describes is replaced
    skipped: list[Skipped] = []
    unusable: set[str] = set()
    buffer = BytesIO()
    columns = _write_tar(_tiles(plan, settings, skipped, unusable), buffer)
    shard = None
    if columns["keys"]:
        shard = {
            "path": plan.path,
            "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest(),
            "bytes": buffer.getbuffer().nbytes,
            "split": plan.split,
            "photos": [p.sha256 for p in plan.photos if p.sha256 not in unusable],
        } | columns
        with tempfile.NamedTemporaryFile(prefix="srmill-shard-") as file:
            file.write(buffer.getbuffer())
            file.flush()
            store.write_file(plan.path, Path(file.name))
    store.write(place, to_json(Note(identity, shard, skipped)))
    return Written(shard, skipped)


def _tiles(
    plan: ShardPlan, settings: ShardConfig, skipped: list[Skipped], unusable: set[str]
) -> Iterator[Tile]:
    """Yields a plan's tiles; adds broken photos to `skipped` and their sha256 to `unusable`."""
    for photo in plan.photos:
        try:
            image = decode_photo(_bytes(photo, settings), settings.max_megapixels)
        except UnusableError as error:
            skipped.append(Skipped.of(photo.entry, error.reason, failure=error.failure))
            unusable.add(photo.sha256)
            continue
        yield from encode_tiles(image, photo.sha256, photo.entry.label, settings, plan.split)


def _bytes(photo: Photo, settings: ShardConfig) -> bytes:
    data = read(photo.entry, settings.max_file_mib * 2**20)
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise UnusableError("changed while it was read", failure=True)
    return data


def _write_tar(tiles: Iterator[Tile], buffer: BytesIO) -> dict[str, list[Any]]:
    """Writes a tar and returns the manifest's columns.

    The tar does not depend on the machine, the user or the time.
    """
    columns: dict[str, list[Any]] = {"keys": [], "offsets": [], "sizes": [], "crc32": []}
    tar = TarWriter(buffer, mtime=0, user=OWNER, group=OWNER, encoder=False)
    for tile in tiles:
        columns["keys"].append(tile.key)
        # tarfile buffers its output, so its own counter is right and buffer.tell() is not.
        start = tar.tarstream.offset
        meta = json.dumps(tile.meta, sort_keys=True).encode()
        tar.write({"__key__": tile.key, EXTENSION: tile.image, "json": meta})
        columns["offsets"].append(start)
        columns["sizes"].append(tar.tarstream.offset - start)
    # tar.close() would close the buffer too.
    tar.tarstream.close()
    with buffer.getbuffer() as data:
        for offset, size in zip(columns["offsets"], columns["sizes"], strict=True):
            columns["crc32"].append(zlib.crc32(data[offset : offset + size]))
    return columns
