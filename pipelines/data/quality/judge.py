"""Leaves junk, near-duplicates and photos of the benchmark out of an inventory, with the reason."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.config.schema import ShardConfig
from pipelines.data.layout import split_photos
from pipelines.data.quality.figures import HASH_SIDE, Quality, distances
from pipelines.data.sources.entries import Entry
from pipelines.data.sources.inventory import Inventory, Photo, Skipped
from pipelines.errors import UserError, listing, told

#: A photo of less contrast is blank (standard deviation of luma, 8-bit levels).
BLANK = 2.0
#: A photo whose neighbouring pixels correlate less is noise. The 282 real photos of docs/data.md
#: have 0.58 and more.
NOISE = 0.3
#: The bits of the perceptual hash in which near-duplicates differ at most. Different photos differ
#: in 90 and more of 256, and a photo from itself in 12 as JPEG of quality 30.
NEAR = 40
#: Fewer junk photos stop no job: a share of so few says nothing about the source.
FEW = 3
_BITS = HASH_SIDE**2


def judge(
    inventory: Inventory,
    placed: Mapping[str, str],
    settings: ShardConfig,
    is_new: Callable[[Entry], bool],
) -> None:
    """Moves each photo that no training should see from `photos` to `skipped`.

    Photos that are in the dataset stay, and so do those that a source or `shard.val_source` holds
    out for validation. Of near-duplicates the first stays, and one of these before all others.

    Args:
        placed: the split of each photo that is in the dataset, by its sha256.
        is_new: tells files that no earlier job has judged.

    Raises:
        UserError: more than `shard.max_junk` of the new photos are junk, and they are `FEW` or
            more (with 0, one is enough); or one photo alone is left, which cannot be in both
            splits.
    """
    junk, copies = _verdicts(inventory.photos, placed, settings)
    _check_junk(inventory.photos, junk, settings, is_new)
    every = inventory.photos
    inventory.photos = [p for p in every if p.sha256 not in junk and p.sha256 not in copies]
    splits = split_photos(inventory.photos, settings.val_fraction, placed)
    for photo in every:
        if photo.sha256 in junk:
            inventory.skipped.append(_skipped(photo, junk[photo.sha256]))
        elif photo.sha256 in copies:
            copy = copies[photo.sha256]
            inventory.skipped.append(_skipped(photo, copy.reason(splits[copy.first.sha256])))


def warn_of_shown(photos: list[Photo], placed: Mapping[str, str]) -> None:
    """Prints which training photos of the dataset show the benchmark; they are not taken out."""
    trained = [photo for photo in photos if placed.get(photo.sha256) == "train"]
    shown = [p for p in trained if p.quality is not None and p.quality.shows is not None]
    if shown:
        names = listing(told(photo.entry.label) for photo in shown[:3])
        print(
            f"{len(shown)} training photos that are in the dataset already show images of the "
            f"benchmark ({names}{', …' if shown[3:] else ''}): for a measurement that holds, make "
            "the dataset again, into an empty folder.",
            flush=True,
        )


@dataclass(frozen=True)
class _Copy:
    """The photo of which another is a near-duplicate, and in how many bits the two differ."""

    first: Photo
    distance: int

    def reason(self, split: str) -> str:
        of = "near-duplicate of a validation photo" if split == "val" else "near-duplicate"
        return f"{of} (of {self.first.entry.label}, {self.distance} of {_BITS} bits differ)"


@dataclass
class _Hashes:
    """The hashes of the photos that stay, in the order in which they were taken."""

    photos: list[Photo] = field(default_factory=list)
    _rows: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, _BITS // 8), np.uint8))

    def copy(self, photo: Photo) -> _Copy | None:
        """Returns the photo that another is nearest to; None if it is no near-duplicate."""
        if not self.photos:
            return None
        found = distances(_quality(photo).hash, self._rows[: len(self.photos)])
        place = int(found.argmin())
        near = found[place] <= NEAR
        return _Copy(self.photos[place], int(found[place])) if near else None

    def add(self, photo: Photo) -> None:
        count = len(self.photos)
        if count == len(self._rows):
            self._rows = np.resize(self._rows, (2 * count + 64, _BITS // 8))
        self._rows[count] = np.frombuffer(bytes.fromhex(_quality(photo).hash), np.uint8)
        self.photos.append(photo)


def _verdicts(
    photos: list[Photo], placed: Mapping[str, str], settings: ShardConfig
) -> tuple[dict[str, str], dict[str, _Copy]]:
    """Returns what is wrong with junk, and of what copies are copies, by the photos' sha256."""
    junk, copies, hashes = dict[str, str](), dict[str, _Copy](), _Hashes()
    in_place = [photo for photo in photos if photo.sha256 in placed]
    held_out = [p for p in photos if p.sha256 not in placed and p.entry.split == "val"]
    staying = {photo.sha256 for photo in (*in_place, *held_out)}
    for photo in (*in_place, *held_out):
        hashes.add(photo)
    for photo in photos:
        if photo.sha256 in staying:
            continue
        if (reason := _junk(photo, settings) or _shown(photo)) is not None:
            junk[photo.sha256] = reason
        elif (copy := hashes.copy(photo)) is not None:
            copies[photo.sha256] = copy
        else:
            hashes.add(photo)
    return junk, copies


def _skipped(photo: Photo, reason: str) -> Skipped:
    return Skipped.of(photo.entry, reason, failure=False)


def _quality(photo: Photo) -> Quality:
    assert photo.quality is not None, "inspect measures each photo that is judged"
    return photo.quality


def _junk(photo: Photo, settings: ShardConfig) -> str | None:
    """Says in what way a photo has nothing to learn from; None if it has."""
    size, quality = photo.size, _quality(photo)
    # A photo that fits the tiles of one split may be drawn for it.
    smallest = settings.min_side or min(settings.tile, settings.val_tile)
    if min(size.width, size.height) < smallest:
        what = "shard.min_side" if settings.min_side else "a tile"
        return f"smaller than {what} ({size.width}x{size.height} px)"
    if quality.contrast < BLANK:
        return f"blank (contrast {quality.contrast:.1f})"
    if quality.correlation < NOISE:
        return f"noise (neighbouring pixels correlate by {quality.correlation:.2f})"
    return None


def _shown(photo: Photo) -> str | None:
    quality = _quality(photo)
    if quality.shows is None:
        return None
    return f"shown in the benchmark ({quality.shows}, {quality.num_matches} points match)"


def _check_junk(
    photos: list[Photo],
    reasons: Mapping[str, str],
    settings: ShardConfig,
    is_new: Callable[[Entry], bool],
) -> None:
    new = [photo for photo in photos if is_new(photo.entry)]
    junk = [photo for photo in new if photo.sha256 in reasons]
    few = settings.max_junk > 0 and len(junk) < FEW
    if few or len(junk) <= settings.max_junk * len(new):
        return
    counts = Counter(reasons[p.sha256].partition(" (")[0] for p in junk).most_common()
    raise UserError(
        f"{len(junk)} of {len(new)} new photos are junk, more than shard.max_junk="
        f"{settings.max_junk:g} allows ({listing(f'{n} {reason}' for reason, n in counts)}; the "
        f"first: {listing(told(photo.entry.label) for photo in junk[:3])}): take them out of the "
        "source, allow more, or set shard.quality=false to take every photo."
    )
