"""Which photo goes into which split and which shard: decided by content, before a pixel is cut."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config.schema import ShardConfig
from pipelines.data.manifest import Manifest, Shard
from pipelines.data.sources import Inventory, Photo, Skipped
from pipelines.data.tiles import EXTENSION, cut, tile_size
from pipelines.errors import UserError
from pipelines.storage.digests import digest

#: Bytes per pixel that a lossless tile is expected to take, to plan shards before encoding.
EXPECTED_BYTES = 1.0


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be made: its bytes follow from this and the settings alone."""

    path: str
    split: str
    photos: tuple[Photo, ...]

    def identity(self, settings: ShardConfig) -> str:
        photos = [photo.sha256 for photo in self.photos]
        return digest([self.path, self.split, photos, identity_settings(settings)])


@dataclass(frozen=True)
class Layout:
    """Shards that stay as they are, shards to be made again because they are gone, and the photos
    that are in neither, by split."""

    kept: tuple[Shard, ...]
    again: tuple[ShardPlan, ...]
    new: dict[str, list[Photo]]
    numbers: dict[str, int]


def identity_settings(settings: ShardConfig) -> dict[str, Any]:
    """The settings that decide a dataset's bytes."""
    names = ("tile", "val_tile", "overlap", "min_contrast", "val_fraction", "shard_mib", "effort")
    return {name: getattr(settings, name) for name in names} | {"codec": EXTENSION}


def assign(
    inventory: Inventory,
    settings: ShardConfig,
    before: Manifest | None,
    present: Collection[str],
    used: Collection[str],
) -> Layout:
    """What of `before` stays, and where every other photo goes.

    Photos that are in the dataset keep their split. `present` names the shards whose bytes are
    still there, `used` all that a manifest of the history lists. Photos smaller than a tile are
    added to the inventory's skipped ones.

    Raises:
        UserError: the photos cannot be split.
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


def split_photos(photos: Sequence[Photo], fraction: float, known: dict[str, str]) -> dict[str, str]:
    """sha256 → `train` or `val`: what `known` says, else what the set itself says (DIV2K), else
    the photo's own digest, so that adding photos does not move others. In a set so small that no
    digest decides, the smallest one is held out; at least one photo is left for training.

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
    """The shards to make. Photos go in by the order of their sha256: as good as shuffled, and
    without regard to names."""
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
