"""Opens a dataset and reads its samples; checks every sample that it reads."""

import os
import tarfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipelines.config.schema import StreamConfig
from pipelines.data.cache import ShardCache
from pipelines.data.manifest import FILE_NAME, HISTORY, Manifest, Sample, Shard
from pipelines.data.tiles import EXTENSION, decode
from pipelines.errors import UserError, told
from pipelines.storage.node_folder import NodeFolder
from pipelines.storage.paths import absolute_location
from pipelines.storage.probe import Witness
from pipelines.storage.store import LocalStore, Store, open_store

#: Files that a process keeps open.
OPEN_FILES = 64
_REMEDY = (
    "copy the dataset to s3://bucket/prefix, or to a folder that all nodes share, and set data to "
    "that"
)


def open_dataset(location: str, stream: StreamConfig) -> "Dataset":
    """Returns the dataset in a directory or under an `s3://` prefix.

    Args:
        location: the directory, the prefix, or an earlier manifest in one of the two
            (`…/manifests/<digest>.json`).

    Raises:
        UserError: there is no dataset, or a shard is missing or has a wrong size.
    """
    root, name = split_location(absolute_location(location))
    store = open_store(root, policy=stream.policy)
    manifest = Manifest.load(store, name)
    present = intact_shards(store, manifest)
    for shard in manifest.shards:
        if shard.path not in present:
            raise UserError(
                f"shard {store.location}/{shard.path} is missing or truncated: run the same "
                "jobs/shard.py again. It makes missing shards."
            )
    return Dataset(store, manifest, stream)


def dataset_exists(location: str, stream: StreamConfig) -> bool:
    """Returns True if a location has a manifest.

    Raises:
        UserError: the store fails.
    """
    root, name = split_location(absolute_location(location))
    return open_store(root, policy=stream.policy).size(name) is not None


def split_location(location: str) -> tuple[str, str]:
    """Returns the folder or prefix of a dataset, and the name of the manifest in it."""
    if not location.endswith(".json"):
        return location, FILE_NAME
    root, _, name = location.rpartition("/")
    if root.endswith(f"/{HISTORY}") and not root.endswith(f"://{HISTORY}"):
        return root.removesuffix(f"/{HISTORY}"), f"{HISTORY}/{name}"
    return root, name


def intact_shards(store: Store, manifest: Manifest | None) -> set[str]:
    """Returns the paths of the manifest's shards that the store holds in the right size."""
    shards: Iterable[Shard] = manifest.shards if manifest else ()
    sizes = store.sizes() if manifest else {}
    return {shard.path for shard in shards if sizes.get(shard.path) == shard.bytes}


class Dataset:
    """A dataset that reads samples by their place in a shard.

    Any number of threads can share one. A pickled one reads on another node, and lists the store
    no second time.
    """

    def __init__(self, store: Store, manifest: Manifest, stream: StreamConfig) -> None:
        self.store, self.manifest, self.stream = store, manifest, stream
        self.cache_folder = NodeFolder.of(stream.cache)
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("store", "manifest", "stream", "cache_folder")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()
        self._cache_hits = 0

    @cached_property
    def cache(self) -> ShardCache | None:
        """The cache of this node; None for a dataset in a directory."""
        if isinstance(self.store, LocalStore):
            return None
        limit = self.stream.cache_mib * 2**20
        return ShardCache(self.cache_folder.path, limit, self.stream.policy)

    def witness(self) -> Witness | None:
        """Returns a file by which a node knows that it has the dataset's directory.

        Returns:
            None for a dataset in s3://.

        Raises:
            UserError: the file cannot be read.
        """
        if not isinstance(self.store, LocalStore):
            return None
        # Not the manifest: photos may be added while a run trains on the shards that it knows.
        return Witness.of(self.store.directory, self.manifest.shards[0].path, _REMEDY)

    def read(self, sample: Sample) -> dict[str, bytes]:
        """Returns the files of a sample by extension.

        Raises:
            UserError: the sample is damaged, or its shard cannot be fetched.
        """
        data = self._bytes(sample)
        if len(data) != sample.size or zlib.crc32(data) != sample.crc32:
            path = f"{self.store.location}/{self.manifest.shards[sample.shard].path}"
            raise UserError(
                f"shard {path} is damaged at sample {sample.key}: `jobs/shard.py verify=true "
                f"data={self.store.location}` says how much of the dataset is."
            )
        try:
            return dict(_members(data))
        except (tarfile.TarError, ValueError) as error:
            raise self._no_sample(sample, error) from None

    def tile(self, sample: Sample) -> NDArray[np.uint8]:
        """Returns the HR tile of a sample, `[H, W, 3]` uint8 RGB; raises as `read`."""
        files = self.read(sample)
        try:
            return decode(files.get(EXTENSION, b""))
        except ValueError as error:
            raise self._no_sample(sample, error) from None

    def _no_sample(self, sample: Sample, error: Exception) -> UserError:
        path = f"{self.store.location}/{self.manifest.shards[sample.shard].path}"
        return UserError(
            f"sample {sample.key} of {path} is not what jobs/shard.py writes ({told(error)}): make "
            "the dataset again, from the photos."
        )

    def fetch(self, shard: int) -> None:
        """Brings a shard into the node's cache, if there is one, before it is used.

        Raises:
            UserError: the shard cannot be fetched.
        """
        if self.cache is not None:
            before = self.cache.fetches
            self.cache.open(self.store, self.manifest.shards[shard]).close()
            self._cache_hits += self.cache.fetches == before

    def release(self, shard: int) -> None:
        """Lets the node's cache, if there is one, evict a shard before others."""
        if self.cache is not None:
            self.cache.release(self.manifest.shards[shard])

    def counts(self) -> dict[str, int]:
        """Returns how this process has filled the node's cache: the bytes and the number of shards
        that it fetched, and the number of those that `fetch` found there. Empty without a cache."""
        if self.cache is None:
            return {}
        return {
            "fetched_bytes": self.cache.fetched_bytes,
            "fetches": self.cache.fetches,
            "cache_hits": self._cache_hits,
        }

    def _bytes(self, sample: Sample) -> bytes:
        shard = self.manifest.shards[sample.shard]
        if self.cache is not None:
            # An open file would keep its space on the disk after the cache evicts it.
            with self.cache.open(self.store, shard) as file:
                return os.pread(file.fileno(), sample.size, sample.offset)
        file = self._file(sample.shard)  # a reference that keeps it open
        return os.pread(file.fileno(), sample.size, sample.offset)

    def _file(self, number: int) -> BinaryIO:
        """Returns the open file of a shard in a directory, and keeps it open for a while."""
        path = Path(self.store.location) / self.manifest.shards[number].path
        with self._lock:
            if number not in self._files:
                self._files[number] = path.open("rb")
            self._files.move_to_end(number)
            while len(self._files) > OPEN_FILES:
                # Another thread may read it, so it closes when its last reference goes.
                self._files.popitem(last=False)
            return self._files[number]


def _members(data: bytes) -> Iterable[tuple[str, bytes]]:
    """Yields (extension, content) of the tar members in a sample's bytes."""
    at = 0
    while at < len(data):
        header = tarfile.TarInfo.frombuf(data[at : at + 512], "utf-8", "strict")
        at += 512
        if not 0 <= header.size <= len(data) - at:
            raise ValueError("a member that is larger than the sample")
        yield header.name.partition(".")[2], data[at : at + header.size]
        at += -(-header.size // 512) * 512
