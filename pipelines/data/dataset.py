"""A dataset that can be read: its manifest, its place, and its samples' bytes, each one checked."""

import os
import tarfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipelines.config.schema import StreamConfig
from pipelines.data.cache import ShardCache
from pipelines.data.manifest import FILE_NAME, HISTORY, Manifest, Sample, Shard
from pipelines.data.tiles import decode
from pipelines.errors import UserError
from pipelines.storage.paths import absolute_location, resolve
from pipelines.storage.store import LocalStore, Store, open_store

#: Files that a process keeps open.
OPEN_FILES = 64


def open_dataset(location: str, stream: StreamConfig) -> "Dataset":
    """The dataset in a directory or under an `s3://` prefix, or one of its earlier manifests
    (`…/manifests/<digest>.json`).

    Raises:
        UserError: there is none, or a shard is missing or of the wrong size.
    """
    root, name = split_location(absolute_location(location))
    store = open_store(root, policy=stream.policy)
    manifest = Manifest.load(store, name)
    present = intact_shards(store, manifest)
    for shard in manifest.shards:
        if shard.path not in present:
            raise UserError(
                f"shard {store.location}/{shard.path} is missing or truncated: run the same "
                "jobs/shard.py again, it makes what is missing."
            )
    return Dataset(store, manifest, stream)


def dataset_exists(location: str, stream: StreamConfig) -> bool:
    """Whether there is a manifest."""
    root, name = split_location(absolute_location(location))
    return open_store(root, policy=stream.policy).size(name) is not None


def split_location(location: str) -> tuple[str, str]:
    """A dataset's place and the name of its manifest there."""
    if not location.endswith(".json"):
        return location, FILE_NAME
    root, _, name = location.rpartition("/")
    if root.endswith(f"/{HISTORY}") and not root.endswith(f"://{HISTORY}"):
        return root.removesuffix(f"/{HISTORY}"), f"{HISTORY}/{name}"
    return root, name


def intact_shards(store: Store, manifest: Manifest | None) -> set[str]:
    """Paths of the shards that are there with the right size."""
    shards: Iterable[Shard] = manifest.shards if manifest else ()
    sizes = store.sizes() if manifest else {}
    return {shard.path for shard in shards if sizes.get(shard.path) == shard.bytes}


class Dataset:
    """Reads samples by their place in a shard. For threads and processes alike; pickled, it reads
    the same on another node, without asking anew what is there."""

    def __init__(self, store: Store, manifest: Manifest, stream: StreamConfig) -> None:
        self.store, self.manifest = store, manifest
        # Here, not where it is used: workers have another current directory.
        self.stream = replace(stream, cache=str(resolve(stream.cache)))
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "manifest": self.manifest, "stream": self.stream}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    @cached_property
    def cache(self) -> ShardCache | None:
        """The node's cache; None for a dataset in a directory, which needs none."""
        if isinstance(self.store, LocalStore):
            return None
        limit = self.stream.cache_mib * 2**20
        return ShardCache(Path(self.stream.cache), limit, self.stream.policy)

    def read(self, sample: Sample) -> dict[str, bytes]:
        """One sample's files by extension.

        Raises:
            UserError: the shard is damaged there, or cannot be fetched.
        """
        data = self._bytes(sample)
        if len(data) != sample.size or zlib.crc32(data) != sample.crc32:
            path = f"{self.store.location}/{self.manifest.shards[sample.shard].path}"
            raise UserError(
                f"shard {path} is damaged at sample {sample.key}: `jobs/shard.py verify=true "
                f"data={self.store.location}` says how much of the dataset is."
            )
        return dict(_members(data))

    def tile(self, sample: Sample) -> NDArray[np.uint8]:
        """The HR tile `[H, W, 3]` uint8 RGB of a sample."""
        files = self.read(sample)
        return decode(next(data for name, data in files.items() if name != "json"))

    def fetch(self, shard: int) -> None:
        """Brings a shard into the node's cache ahead of its use; nothing to do for a directory."""
        if self.cache is not None:
            self.cache.open(self.store, self.manifest.shards[shard]).close()

    def release(self, shard: int) -> None:
        """Lets the node's cache evict a shard before others."""
        if self.cache is not None:
            self.cache.release(self.manifest.shards[shard])

    def _bytes(self, sample: Sample) -> bytes:
        shard = self.manifest.shards[sample.shard]
        if self.cache is not None:
            # Not kept open: what the cache evicts has to free its space.
            with self.cache.open(self.store, shard) as file:
                return os.pread(file.fileno(), sample.size, sample.offset)
        file = self._file(sample.shard)  # held, so that it is not closed meanwhile
        return os.pread(file.fileno(), sample.size, sample.offset)

    def _file(self, number: int) -> BinaryIO:
        """A shard in a directory, one of a few that stay open."""
        path = Path(self.store.location) / self.manifest.shards[number].path
        with self._lock:
            if number not in self._files:
                self._files[number] = path.open("rb")
            self._files.move_to_end(number)
            while len(self._files) > OPEN_FILES:
                # Another thread may be reading it: it closes itself once nobody holds it.
                self._files.popitem(last=False)
            return self._files[number]


def _members(data: bytes) -> Iterable[tuple[str, bytes]]:
    """(extension, content) of the tar members in a sample's bytes."""
    at = 0
    while at < len(data):
        header = tarfile.TarInfo.frombuf(data[at : at + 512], "utf-8", "strict")
        at += 512
        yield header.name.partition(".")[2], data[at : at + header.size]
        at += -(-header.size // 512) * 512
