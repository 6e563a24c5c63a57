"""Reads and writes the manifest: the content-addressed list of a dataset's shards and samples."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.storage.digests import canonical
from pipelines.storage.forms import NonNegativeInt, RelativePath, Sha256
from pipelines.storage.store import Store
from pipelines.storage.typed import check_depth, validated

VERSION = 2
FILE_NAME = "manifest.json"
#: The folder that keeps every manifest under its digest, after photos are added too.
HISTORY = "manifests"
#: A key is a part of file names, and the rest of such a name begins at its first dot.
KEY = re.compile(r"[\w-]{1,200}", re.ASCII)

T = TypeVar("T", bound=np.integer)


@dataclass(frozen=True)
class Sample:
    """The place of one sample's tar members: `size` bytes at `offset` of shard number `shard`."""

    key: str
    shard: int
    offset: int
    size: int
    crc32: int
    split: str


@dataclass(frozen=True)
class _Head:
    """The fields of `Shard` that are no columns, in the form that they must have."""

    path: RelativePath
    sha256: Sha256
    bytes: NonNegativeInt
    split: Literal["train", "val"]
    photos: tuple[Sha256, ...]


@dataclass(frozen=True)
class Shard:
    """One tar of a dataset.

    Its samples are columns, `[num_samples]` each, so that a million samples fit into little memory.

    Attributes:
        path: the name relative to the manifest.
        bytes: the size of the tar.
        photos: the sha256 of every photo that was cut for it, even of those that left no tile.
    """

    path: str
    sha256: str
    bytes: int
    split: str
    photos: tuple[str, ...]
    keys: NDArray[np.bytes_] = field(compare=False, repr=False)
    offsets: NDArray[np.int64] = field(compare=False, repr=False)
    sizes: NDArray[np.int64] = field(compare=False, repr=False)
    crc32: NDArray[np.uint32] = field(compare=False, repr=False)

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "Shard":
        """Returns the shard that `to_json` wrote.

        Raises:
            ValueError: a value has another form, the columns differ in length, or a sample lies
                outside of the tar.
            OverflowError: a number does not fit into its column.
            KeyError, TypeError: a column is missing, or is no list.
        """
        columns = {name: raw[name] for name in ("keys", "offsets", "sizes", "crc32")}
        head = validated(_Head, {name: raw[name] for name in raw.keys() - columns.keys()})
        shard = Shard(
            **vars(head),
            keys=_keys(columns["keys"]),
            offsets=_integers(columns["offsets"], np.int64),
            sizes=_integers(columns["sizes"], np.int64),
            crc32=_integers(columns["crc32"], np.uint32),
        )
        shard._check()
        return shard

    def _check(self) -> None:
        if {a.shape for a in (self.offsets, self.sizes, self.crc32)} != {self.keys.shape}:
            raise ValueError("columns of unequal length")
        if not ((self.offsets >= 0) & (self.sizes > 0)).all():
            raise ValueError("samples of no place")
        if (self.offsets > self.bytes - self.sizes).any():
            raise ValueError("samples outside of the tar")

    def to_json(self) -> dict[str, Any]:
        """Returns the shard as JSON values."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "split": self.split,
            "photos": list(self.photos),
            "keys": [key.decode() for key in self.keys.tolist()],
            "offsets": self.offsets.tolist(),
            "sizes": self.sizes.tolist(),
            "crc32": self.crc32.tolist(),
        }

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Manifest:
    """The list of a dataset's shards, with the settings that it was made with."""

    settings: dict[str, Any]
    shards: tuple[Shard, ...]

    @cached_property
    def digest(self) -> str:
        """The identity of the dataset.

        It is the sha256 of lines, each ended by a line feed: the canonical JSON of version and
        settings, then that of each shard.
        """
        sha256 = hashlib.sha256()
        for line in self._lines():
            sha256.update(line.encode() + b"\n")
        return sha256.hexdigest()

    def _lines(self) -> Iterator[str]:
        yield canonical({"version": VERSION, "settings": self.settings})
        for shard in self.shards:
            yield canonical(shard.to_json())

    def sample(self, shard: int, row: int) -> Sample:
        """Returns the sample at `row` of shard number `shard`."""
        found = self.shards[shard]
        return Sample(
            found.keys[row].decode(),
            shard,
            int(found.offsets[row]),
            int(found.sizes[row]),
            int(found.crc32[row]),
            found.split,
        )

    def split(self, name: str) -> list[Sample]:
        """Returns the samples of `train` or `val`, in the manifest's order."""
        return [self.sample(i, row) for i in self.shard_numbers(name) for row in self._rows(i)]

    def _rows(self, shard: int) -> range:
        return range(len(self.shards[shard]))

    def shard_numbers(self, split: str) -> list[int]:
        """Returns the numbers of the shards of `train` or `val`."""
        return [i for i, shard in enumerate(self.shards) if shard.split == split]

    def num_samples(self, split: str) -> int:
        """Returns the number of samples of `train` or `val`."""
        return sum(len(self.shards[i]) for i in self.shard_numbers(split))

    @property
    def num_bytes(self) -> int:
        """The size of all shards together."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> str:
        """Returns the text of the file: one JSON object, with the lines that the digest covers."""
        _, *shards = self._lines()
        head = {"version": VERSION, "digest": self.digest, "settings": self.settings}
        return canonical(head)[:-1] + ',"shards":[\n' + ",\n".join(shards) + "\n]}\n"

    def save(self, store: Store) -> None:
        """Writes the manifest under its digest first, and then as the newest of the dataset.

        Raises:
            UserError: the store fails.
        """
        data = self.to_json().encode()
        store.write(f"{HISTORY}/{self.digest}.json", data)
        store.write(FILE_NAME, data)

    @staticmethod
    def load(store: Store, name: str = FILE_NAME) -> "Manifest":
        """Returns the manifest `name` in `store`.

        Raises:
            UserError: there is no manifest, or its digest or version is wrong.
        """
        if store.size(name) is None:
            raise UserError(
                f"there is no dataset in {store.location} (no {name}): "
                f"make one with `jobs/shard.py output={store.location}`, or set data=."
            )
        manifest = Manifest.parse(store.read(name))
        if manifest is None:
            raise UserError(
                f"{store.location}/{name} is damaged or of another version: make the dataset "
                "again with jobs/shard.py, into an empty folder."
            )
        return manifest

    @staticmethod
    def parse(data: bytes) -> "Manifest | None":
        """Returns the manifest in a file's bytes; None if damaged or of another version."""
        try:
            # Each shard becomes arrays at once: lists of a million samples take too much memory.
            raw = json.loads(data, object_hook=lambda o: Shard.from_json(o) if "keys" in o else o)
            manifest = Manifest(dict(check_depth(raw["settings"])), tuple(raw["shards"]))
            intact = raw["version"] == VERSION and raw["digest"] == manifest.digest
            intact &= type(manifest.settings["tile"]) is int
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        alone = len({shard.path for shard in manifest.shards}) == len(manifest.shards)
        return manifest if intact and alone else None


def _keys(column: Any) -> NDArray[np.bytes_]:
    """Returns a column of names; an array gives each the room of the longest, so it comes last."""
    if type(column) is not list or not all(map(KEY.fullmatch, column)):
        raise ValueError("keys that are no names")
    return np.array(column, dtype=np.bytes_)


def _integers(column: Any, kind: type[T]) -> NDArray[T]:
    """Returns a column as integers; `numpy.array` alone would cut fractions off."""
    if not all(type(value) is int for value in column):
        raise ValueError("a column that does not hold integers")
    return np.array(column, dtype=kind)
