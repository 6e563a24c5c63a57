"""Gives every photo a split and a shard, by its content, before any photo is decoded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config.schema import ShardConfig
from pipelines.data.manifest import Manifest, Shard
from pipelines.data.sources import Inventory, Photo, Skipped
from pipelines.data.tiles import EXTENSION, cut, tile_size
from pipelines.errors import UserError
from pipelines.storage.digests import digest

#: The expected bytes per pixel of a lossless tile, to plan shards before tiles are encoded.
EXPECTED_BYTES = 1.0


@dataclass(frozen=True)
class ShardPlan:
    """A shard to make. Its bytes follow from this plan and the settings alone."""

    path: str
    split: str
    photos: tuple[Photo, ...]

    def identity(self, settings: ShardConfig) -> str:
        """Returns the sha256 of everything that the shard's bytes follow from."""
        photos = [photo.sha256 for photo in self.photos]
        return digest([self.path, self.split, photos, identity_settings(settings)])


@dataclass(frozen=True)
class Layout:
    """The plan of a whole dataset.

    Attributes:
        kept: the shards that stay as they are.
        again: the shards to make again, because their bytes are gone.
        new: the photos that are in none of these shards, by split.
        numbers: the number of the next new shard, by split.
    """

    kept: tuple[Shard, ...]
    again: tuple[ShardPlan, ...]
    new: dict[str, list[Photo]]
    numbers: dict[str, int]


def identity_settings(settings: ShardConfig) -> dict[str, Any]:
    """Returns the settings that decide a dataset's bytes, by name."""
    names = ("tile", "val_tile", "overlap", "min_contrast", "val_fraction", "shard_mib", "effort")
    return {name: getattr(settings, name) for name in names} | {"codec": EXTENSION}


def assign(
    inventory: Inventory,
    settings: ShardConfig,
    before: Manifest | None,
    present: Collection[str],
    used: Collection[str],
) -> Layout:
    """Returns the shards that stay, and the split of every other photo.

    Photos that are in the dataset keep their split. This adds photos smaller than a tile to
    `inventory.skipped`.

    Args:
        before: the manifest of the dataset so far, if there is one.
        present: the paths of the shards whose bytes are still there.
        used: the paths of all shards that any manifest, earlier ones too, lists.

    Raises:
        UserError: there is only one photo, which cannot be in both splits.
    """
    photos = {photo.sha256: photo for photo in inventory.photos}
    old = before.shards if before else ()
    stay = [shard for shard in old if all(sha in photos for sha in shard.photos)]
    placed = {sha for shard in stay for sha in shard.photos}
    known = {sha: shard.split for shard in old for sha in shard.photos if sha in photos}
    splits = split_photos(inventory.photos, settings.val_fraction, known)
    new: dict[str, list[Photo]] = {"train": [], "val": []}
    for photo in inventory.photos:
        split, size = splits[photo.sha256], photo.size
        if min(size.width, size.height) < tile_size(settings, split):
            reason = f"smaller than a tile ({size.width}x{size.height} px, split {split})"
            inventory.skipped.append(Skipped.of(photo.entry, reason, failure=False))
        elif photo.sha256 not in placed:
            new[split].append(photo)
    again = [
        ShardPlan(shard.path, shard.split, tuple(photos[sha] for sha in shard.photos))
        for shard in stay
        if shard.path not in present
    ]
    kept = tuple(shard for shard in stay if shard.path in present)
    return Layout(kept, tuple(again), new, {split: _next_number(used, split) for split in new})


def split_photos(
    photos: Sequence[Photo], fraction: float, known: Mapping[str, str]
) -> dict[str, str]:
    """Returns `train` or `val` for the sha256 of every photo.

    The split comes from `known`, else from the public set (DIV2K has one), else from the photo's
    sha256. So new photos do not move others. If a split would be empty, the new photo with the
    smallest sha256 goes to `val`, or the one with the largest to `train`.

    Args:
        fraction: the share of photos in `val`, between 0 and 1.
        known: the split of photos that the dataset already holds, by sha256.

    Raises:
        UserError: there is only one photo, which cannot be in both splits.
    """
    if len(photos) < 2:
        raise UserError("one photo cannot be split into training and validation: give at least 2.")
    official = any(photo.entry.split == "val" for photo in photos)
    splits = {}
    for photo in photos:
        drawn = "val" if int(photo.sha256[:8], 16) < fraction * 2**32 else "train"
        own = photo.entry.split or ("train" if official else drawn)
        splits[photo.sha256] = known.get(photo.sha256, own)
    free = sorted(sha for sha in splits if sha not in known)
    if "val" not in splits.values() and free:
        splits[free[0]] = "val"
    if "train" not in splits.values() and free:
        splits[free[-1]] = "train"
    return splits


def plan_shards(layout: Layout, settings: ShardConfig) -> list[ShardPlan]:
    """Returns the shards to make.

    Photos go into them in the order of their sha256. This order is as good as shuffled, and does
    not depend on names.
    """
    plans = list(layout.again)
    limit = settings.shard_mib * 2**20
    for split, photos in layout.new.items():
        number = layout.numbers[split]
        group: list[Photo] = []
        expected = 0.0
        for photo in sorted(photos, key=lambda photo: photo.sha256):
            group.append(photo)
            expected += _expected_bytes(photo, settings, split)
            if expected >= limit:
                plans.append(ShardPlan(f"{split}-{number:06d}.tar", split, tuple(group)))
                number, group, expected = number + 1, [], 0.0
        if group:
            plans.append(ShardPlan(f"{split}-{number:06d}.tar", split, tuple(group)))
    return plans


def _expected_bytes(photo: Photo, settings: ShardConfig, split: str) -> float:
    side = tile_size(settings, split)
    overlap = settings.overlap if split == "train" else 0
    tiles = sum(1 for _ in cut(photo.size.height, photo.size.width, side, overlap))
    return EXPECTED_BYTES * tiles * side * side


def _next_number(used: Collection[str], split: str) -> int:
    return 1 + max((int(path[-10:-4]) for path in used if path.startswith(split)), default=-1)
