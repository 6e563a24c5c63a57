"""Finds photos that show an image of the benchmark, whole or in part, larger or smaller.

A benchmark may hold crops of larger photos, whose hashes say nothing of the photo. Local features
do: SIFT (Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004), matched by
the ratio of the two nearest, and checked by one similarity transform for all (RANSAC).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.cluster import Mapper, probing
from pipelines.config.schema import Config, ShardConfig
from pipelines.data.images import UnusableError, decode_photo
from pipelines.data.quality.figures import (
    Gray,
    Quality,
    contrast,
    correlation,
    luma,
    perceptual_hash,
)
from pipelines.data.set_files import (
    EMBEDDED,
    VALIDATION,
    ImageFile,
    find_files,
    parse_names,
    sha256_of,
    title_of,
    witness_of,
)
from pipelines.data.sources.entries import is_photo_name
from pipelines.errors import UserError
from pipelines.storage.digests import digest
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import open_store

#: The longer side to which images are reduced before features are looked for, pixels.
SIDE = 768
#: The features that are kept of an image of the benchmark, and of a photo.
OF_IMAGE, OF_PHOTO = 300, 3000
#: A photo shows an image if so many points of it match. Photos of other things have 3 at most, and
#: a benchmark's own photo at a quarter of its size has 14 or more (docs/data.md).
MIN_MATCHES = 9
#: Lowe's ratio of the nearest feature's distance to that of the next.
_RATIO = 0.75
#: How far a point may lie from where the transform puts it, pixels.
_TOLERANCE = 3.0
#: Features of the benchmark that are compared at a time, which bounds the memory.
_ROWS = 4096


@dataclass(frozen=True)
class Features:
    """Local features of images.

    Attributes:
        names: the images.
        owners: the number of the image of each feature, `[n]`.
        points: their places, `[n, 2]` x and y in pixels.
        descriptors: `[n, 128]`.
    """

    names: tuple[str, ...]
    owners: NDArray[np.int64]
    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]

    def find(self, gray: Gray) -> tuple[str | None, int]:
        """Returns the image that a photo shows, and the number of points at which it does.

        Returns None and 0 if it shows none.

        Args:
            gray: the photo's luma, `[H, W]`.
        """
        best, shown = MIN_MATCHES - 1, None
        if not self.names:
            return None, 0
        points, descriptors = _features(gray, OF_PHOTO)
        if len(descriptors) < 2:
            return None, 0
        for rows in self._parts():
            of, to = self.points[rows], _matches(self.descriptors[rows], descriptors)
            matched = to >= 0
            for image in np.unique(self.owners[rows][matched]):
                mine = matched & (self.owners[rows] == image)
                count = _agreeing(of[mine], points[to[mine]])
                if count > best:
                    best, shown = count, self.names[image]
        return (None, 0) if shown is None else (shown, best)

    def _parts(self) -> Iterator[slice]:
        """Yields slices of about `_ROWS` features, which never part those of one image."""
        start = 0
        while start < len(self.owners):
            last = min(start + _ROWS, len(self.owners)) - 1
            stop = int(np.searchsorted(self.owners, self.owners[last], side="right"))
            yield slice(start, stop)
            start = stop


@dataclass(frozen=True)
class BenchmarkSets:
    """The sets that no training photo may show.

    Attributes:
        locations: as `gate.benchmark` and `benchmark` name them.
        identity: digest of their files, by name, size and ETag; of the embedded set by content.
        max_megapixels: larger images are left out.
    """

    locations: tuple[str, ...] = ()
    identity: str = digest([])
    policy: RetryPolicy = RetryPolicy()
    max_megapixels: float = ShardConfig().max_megapixels

    @staticmethod
    def of(config: Config) -> "BenchmarkSets":
        """Lists the sets of a configuration, without the validation split of the dataset.

        Raises:
            UserError: a key names no set, a folder is missing, or a store fails.
        """
        policy, names = config.stream.policy, dict[str, None]()
        for named in (config.gate.benchmark, config.benchmark):
            names |= dict.fromkeys(parse_names(named) if named not in (None, []) else [])
        locations = tuple(name for name in names if name != VALIDATION)
        identity = digest([_identity(name, policy) for name in locations])
        return BenchmarkSets(locations, identity, policy, config.shard.max_megapixels)

    def features(self, mapper: Mapper) -> Features:
        """Reads the images, in parallel, and returns their features.

        Raises:
            UserError: an image cannot be read, or a node does not see a set's folder.
        """
        names, found = list[str](), list[tuple[NDArray[np.float32], NDArray[np.uint8]]]()
        for location in self.locations:
            files = find_files(location, self.policy)
            witness = witness_of(files.values())
            reader = probing(mapper, [witness] if witness else [])
            names += [f"{title_of(location)}/{name}" for name in files]
            found += reader(image_features, [(f, self.max_megapixels) for f in files.values()])
        owners = [np.full(len(points), number) for number, (points, _) in enumerate(found)]
        return replace(
            NO_FEATURES,
            names=tuple(names),
            owners=np.concatenate([NO_FEATURES.owners, *owners]),
            points=np.concatenate([NO_FEATURES.points, *(points for points, _ in found)]),
            descriptors=np.concatenate([NO_FEATURES.descriptors, *(d for _, d in found)]),
        )


NO_FEATURES = Features(
    (), np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)
)


@dataclass(frozen=True)
class Compared:
    """The benchmark that photos are compared with, and its identity."""

    identity: str
    features: Features

    def measure(self, photo: NDArray[np.uint8]) -> Quality:
        """Returns the figures of a photo, `[H, W, 3]` uint8 RGB."""
        gray = luma(photo)
        shows, num_matches = self.features.find(gray)
        return Quality(
            contrast=round(contrast(gray), 3),
            correlation=round(correlation(gray), 4),
            hash=perceptual_hash(gray),
            compared=self.identity,
            shows=shows,
            num_matches=num_matches,
        )


def image_features(
    file: ImageFile, max_megapixels: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Returns the points and descriptors of a benchmark's image, as a Ray task.

    A file that is no image has none. The evaluation names it.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return _features(luma(decode_photo(file.read_bytes(), max_megapixels)), OF_IMAGE)
    except UnusableError:
        return NO_FEATURES.points, NO_FEATURES.descriptors
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from None


def _identity(location: str, policy: RetryPolicy) -> Sequence[Sequence[object]]:
    if location == EMBEDDED:
        return [[name, sha256_of(file)] for name, file in find_files(location).items()]
    find_files(location, policy)  # says what is wrong with the location
    stamps = open_store(location, policy=policy).stamps().items()
    return [[name, stamp.size, stamp.mark] for name, stamp in stamps if is_photo_name(name)]


def _features(gray: Gray, most: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Returns places `[n, 2]` and descriptors `[n, 128]` of an image's strongest features."""
    factor = SIDE / max(gray.shape)
    if factor < 1:
        # Each side has a pixel or more.
        size = [max(1, round(side * factor)) for side in gray.shape[::-1]]
        gray = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    keypoints, descriptors = cv2.SIFT.create(most).detectAndCompute(gray, None)
    if descriptors is None:
        return NO_FEATURES.points, NO_FEATURES.descriptors
    points = np.array([point.pt for point in keypoints], np.float32)
    return points, descriptors.astype(np.uint8)


def _matches(mine: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns, for each of my descriptors, the number of the one that it matches, or -1; `[n]`."""
    # These are whole numbers below 2²⁴, so that float32 is exact in whatever order it adds.
    a, b = mine.astype(np.float32), others.astype(np.float32)
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    rows, nearest = np.arange(len(a)), squares.argmin(1)
    smallest = squares[rows, nearest]
    squares[rows, nearest] = np.inf
    return np.where(smallest < _RATIO**2 * squares.min(1), nearest, -1)


def _agreeing(of: NDArray[np.float32], to: NDArray[np.float32]) -> int:
    """Returns how many pairs of points one move, turn and enlargement explains."""
    if len(of) < MIN_MATCHES:
        return 0
    transform, inside = cv2.estimateAffinePartial2D(
        of, to, method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE
    )
    # Many points that land on one say nothing.
    return 0 if transform is None else len(np.unique(to[inside.ravel() > 0], axis=0))
