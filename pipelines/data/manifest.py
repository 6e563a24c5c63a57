"""The content-addressed list of a dataset's shards and samples: `manifest.json`."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.storage.digests import canonical
from pipelines.storage.store import Store

VERSION = 2
FILE_NAME = "manifest.json"
#: Every manifest stays readable under its own digest when photos are added later.
HISTORY = "manifests"


@dataclass(frozen=True)
class Sample:
    """Where one sample's tar members lie: `size` bytes at `offset` of shard number `shard`."""

    key: str
    shard: int
    offset: int
    size: int
    crc32: int
    split: str


@dataclass(frozen=True)
class Shard:
    """One tar: its name beside the manifest, its digest, and its samples as columns (a set of a
    million samples has to fit into little memory). `photos` are the sha256 of the photos that
    were cut for it, those included of which no tile was kept."""

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
        if len({len(raw[name]) for name in ("keys", "offsets", "sizes", "crc32")}) != 1:
            raise ValueError("columns of unequal length")
        return Shard(
            path=raw["path"],
            sha256=raw["sha256"],
            bytes=raw["bytes"],
            split=raw["split"],
            photos=tuple(raw["photos"]),
            keys=np.array(raw["keys"], dtype=np.bytes_),
            offsets=np.array(raw["offsets"], dtype=np.int64),
            sizes=np.array(raw["sizes"], dtype=np.int64),
            crc32=np.array(raw["crc32"], dtype=np.uint32),
        )

    def to_json(self) -> dict[str, Any]:
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
    """A dataset. `settings` is what it was made with."""

    settings: dict[str, Any]
    shards: tuple[Shard, ...]

    @cached_property
    def digest(self) -> str:
        """The identity of the dataset: sha256 of the canonical JSON of the head, then of each
        shard, each followed by a line feed."""
        sha256 = hashlib.sha256()
        for line in self._lines():
            sha256.update(line.encode() + b"\n")
        return sha256.hexdigest()

    def _lines(self) -> Iterator[str]:
        yield canonical({"version": VERSION, "settings": self.settings})
        for shard in self.shards:
            yield canonical(shard.to_json())

    def sample(self, shard: int, row: int) -> Sample:
        """The sample at `row` of shard number `shard`."""
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
        """The samples of `train` or `val`, in the manifest's order."""
        return [self.sample(i, row) for i in self.shard_numbers(name) for row in self._rows(i)]

    def _rows(self, shard: int) -> range:
        return range(len(self.shards[shard]))

    def shard_numbers(self, split: str) -> list[int]:
        return [i for i, shard in enumerate(self.shards) if shard.split == split]

    def num_samples(self, split: str) -> int:
        return sum(len(self.shards[i]) for i in self.shard_numbers(split))

    @property
    def num_bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> str:
        """The file: one JSON object, one line per shard, the lines that the digest is taken of."""
        _, *shards = self._lines()
        head = {"version": VERSION, "digest": self.digest, "settings": self.settings}
        return canonical(head)[:-1] + ',"shards":[\n' + ",\n".join(shards) + "\n]}\n"

    def save(self, store: Store) -> None:
        """Under its own digest first, then as the dataset's newest."""
        data = self.to_json().encode()
        store.write(f"{HISTORY}/{self.digest}.json", data)
        store.write(FILE_NAME, data)

    @staticmethod
    def load(store: Store, name: str = FILE_NAME) -> "Manifest":
        """The manifest in `store`.

        Raises:
            UserError: there is none, or it was edited.
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
        """A manifest from its file; None if it is not one, or not what its digest says."""
        try:
            # Each shard becomes arrays as soon as it is read: lists of a million would not fit.
            raw = json.loads(data, object_hook=lambda o: Shard.from_json(o) if "keys" in o else o)
            manifest = Manifest(raw["settings"], tuple(raw["shards"]))
            intact = raw["version"] == VERSION and raw["digest"] == manifest.digest
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None
        return manifest if intact else None
