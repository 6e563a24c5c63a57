"""Photos → webdataset shards with a manifest: parallel over photos, the bytes always the same."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.data.manifest import FILE_NAME, Manifest, Sample, Shard
from pipelines.data.sources import Photo, find_photos, read_rgb
from pipelines.errors import UserError
from pipelines.progress import progress
from pipelines.schema import Config, ShardConfig
from pipelines.storage import digest, resolve, write_bytes


@dataclass(frozen=True)
class Tile:
    """One encoded HR tile on its way into a shard."""

    key: str
    png: bytes
    meta: dict[str, Any]
    split: str


def plan(config: Config) -> str:
    """What sharding would do, in words. Raises UserError for an unusable source."""
    splits, skipped = assign(find_photos(config.source), config.shard)
    count = {split: list(splits.values()).count(split) for split in ("train", "val")}
    return (
        f"{len(splits)} photos from source '{config.source}', {count['val']} of them for "
        f"validation, {len(skipped)} skipped as too small; tiles of {config.shard.tile} px "
        f"({config.shard.val_tile} px for validation) into {output_directory(config)}"
    )


def run(config: Config) -> Path:
    """Writes the dataset, unless it is there already; returns its directory.

    Raises:
        UserError: the source is unusable, all photos of a split are smaller than a tile, or the
            output holds another or a damaged dataset.
    """
    splits, skipped = assign(find_photos(config.source), config.shard)
    for photo in skipped:
        print(f"Skipped {photo.name}: its shorter side, {photo.side} px, is less than a tile.")
    directory = output_directory(config)
    settings = asdict(config.shard)
    source = digest([[photo.name, photo.sha256] for photo in splits])
    if (directory / FILE_NAME).exists():
        manifest = Manifest.load(directory)
        if (manifest.settings, manifest.source) != (settings, source):
            raise UserError(
                f"{directory} holds another dataset (other photos or shard.* settings): "
                "choose another output, or delete that folder."
            )
        if damaged := manifest.damaged_shards(directory):
            raise UserError(
                f"shards of {directory} are damaged ({', '.join(damaged)}): delete that folder "
                "and run jobs/shard.py again."
            )
        print(f"Nothing to do: {describe(manifest)} are in {directory} already.")
        return directory

    # What an interrupted attempt left: without a manifest, no reader knows of it.
    for split in ("train", "val"):
        for leftover in directory.glob(f"{split}-*.tar"):
            leftover.unlink()
    limit = config.shard.shard_mib * 2**20
    tiles = _tiles(splits, config.shard)
    manifest = write_shards(tiles, directory, settings, source, limit)
    manifest.save(directory)
    print(f"Wrote {describe(manifest)} to {directory}.")
    return directory


def assign(photos: list[Photo], settings: ShardConfig) -> tuple[dict[Photo, str], list[Photo]]:
    """Every photo's split, and the photos that are smaller than a tile of theirs.

    Raises:
        UserError: no photo is left for a split.
    """
    held_out = validation_photos(photos, settings.val_fraction)
    splits: dict[Photo, str] = {}
    skipped = []
    for photo in photos:
        split = "val" if photo.sha256 in held_out else "train"
        if photo.side < (settings.val_tile if split == "val" else settings.tile):
            skipped.append(photo)
        else:
            splits[photo] = split
    for split in ("train", "val"):
        if split not in splits.values():
            raise UserError(
                f"every photo for the split '{split}' is smaller than its tile ({settings.tile} "
                f"px, validation {settings.val_tile} px): set a smaller shard.tile or "
                "shard.val_tile."
            )
    return splits, skipped


def output_directory(config: Config) -> Path:
    """`output`, else `data`: where a dataset is written is where it is read."""
    return resolve(config.output or config.data)


def describe(manifest: Manifest) -> str:
    size = sum(shard.bytes for shard in manifest.shards) / 2**20
    return (
        f"{len(manifest.split('train'))} training and {len(manifest.split('val'))} validation "
        f"tiles in {len(manifest.shards)} shards ({size:.1f} MiB)"
    )


def validation_photos(photos: list[Photo], fraction: float) -> set[str]:
    """sha256 of the photos held out: a photo's own digest decides, so that adding others does
    not move it. (In a set so small that no digest decides, the smallest one is held out.) At
    least one is held out, and at least one is left.

    Raises:
        UserError: there is only one photo, which cannot be in both splits.
    """
    if len(photos) < 2:
        raise UserError("one photo cannot be split into training and validation: give at least 2.")
    ranked = sorted(photo.sha256 for photo in photos)
    held_out = [sha for sha in ranked if int(sha[:8], 16) < fraction * 2**32]
    return set(held_out[: len(photos) - 1] or ranked[:1])


def cut(image: NDArray[np.uint8], size: int) -> Iterator[tuple[int, int]]:
    """Top-left corners (y, x) of tiles that cover the image; the last row and column are moved
    inwards instead of being dropped. Nothing if the image is smaller than a tile."""
    height, width = image.shape[:2]
    if height < size or width < size:
        return
    for y in _starts(height, size):
        for x in _starts(width, size):
            yield y, x


def _starts(length: int, size: int) -> list[int]:
    count = -(-length // size)
    return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]


def _tiles(splits: dict[Photo, str], settings: ShardConfig) -> Iterator[Tile]:
    """Tiles of all photos in order, cut by Ray tasks of which a few are in flight."""
    import ray

    from pipelines.cluster import connect

    remote = ray.remote(num_cpus=1)(encode_tiles)
    with connect(), progress("shard", total=len(splits), unit="photo") as bar:
        in_flight = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = iter(splits.items())
        pending: list[Any] = []
        while True:
            while len(pending) < in_flight and (item := next(waiting, None)):
                photo, split = item
                size = settings.val_tile if split == "val" else settings.tile
                pending.append(remote.remote(photo, size, split))
            if not pending:
                return
            yield from ray.get(pending.pop(0))
            bar.update()


def encode_tiles(photo: Photo, size: int, split: str) -> list[Tile]:
    """All tiles of one photo as PNG, in reading order."""
    image = read_rgb(photo.path)
    tiles = []
    for number, (y, x) in enumerate(cut(image, size)):
        ok, png = cv2.imencode(".png", image[y : y + size, x : x + size, ::-1])
        assert ok
        tiles.append(
            Tile(
                key=f"{photo.sha256[:16]}-{number:04d}",
                png=png.tobytes(),
                meta={
                    "source": photo.name,
                    "sha256": photo.sha256,
                    "box": [x, y, x + size, y + size],
                    "photo_size": [image.shape[1], image.shape[0]],
                },
                split=split,
            )
        )
    return tiles


def write_shards(
    tiles: Iterator[Tile], directory: Path, settings: dict[str, Any], source: str, limit: int
) -> Manifest:
    """Writes the shards of tiles in their order, each closed at about `limit` bytes, and
    describes them; the manifest itself is not saved."""
    writers = {split: _SplitWriter(split, directory, limit) for split in ("train", "val")}
    for tile in tiles:
        writers[tile.split].add(tile)
    shards: list[Shard] = []
    samples: list[Sample] = []
    for writer in writers.values():
        writer.close_shard()
        base = len(shards)
        shards += writer.shards
        samples += [
            Sample(s.key, s.shard + base, s.offset, s.size, s.split) for s in writer.samples
        ]
    return Manifest(settings, source, tuple(shards), tuple(samples))


class _SplitWriter:
    """Collects one shard in memory and puts it on disk whole, at most `limit` bytes or so."""

    def __init__(self, split: str, directory: Path, limit: int) -> None:
        self.split, self.directory, self.limit = split, directory, limit
        self.shards: list[Shard] = []
        self.samples: list[Sample] = []
        self._open()

    def _open(self) -> None:
        from webdataset import TarWriter

        self.buffer = BytesIO()
        self.tar = TarWriter(self.buffer, mtime=0, user="srforge", group="srforge", encoder=False)

    def add(self, tile: Tile) -> None:
        offset = self.tar.tarstream.offset
        meta = json.dumps(tile.meta, sort_keys=True).encode()
        self.tar.write({"__key__": tile.key, "png": tile.png, "json": meta})
        size = self.tar.tarstream.offset - offset
        self.samples.append(Sample(tile.key, len(self.shards), offset, size, self.split))
        if self.tar.tarstream.offset >= self.limit:
            self.close_shard()

    def close_shard(self) -> None:
        if not self.tar.tarstream.offset:
            return
        # TarWriter.close also closes the buffer; end the archive and keep the bytes.
        self.tar.tarstream.close()
        data = self.buffer.getvalue()
        name = f"{self.split}-{len(self.shards):06d}.tar"
        write_bytes(self.directory / name, data)
        self.shards.append(Shard(name, hashlib.sha256(data).hexdigest(), len(data)))
        self._open()
