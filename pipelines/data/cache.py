"""A bounded folder of shards on a node, so that each is fetched once however often it is read.

All processes of a node share it: ranks, loader processes, the next run.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from typing import BinaryIO, Protocol

from filelock import FileLock, Timeout

from pipelines.errors import UserError
from pipelines.storage.files import file_sha256, local_files
from pipelines.storage.retries import Retries, RetryPolicy
from pipelines.storage.store import Store

log = logging.getLogger(__name__)

POLL_S = 0.1


class CachedShard(Protocol):
    """What the cache needs of `pipelines.data.manifest.Shard`."""

    @property
    def path(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def bytes(self) -> int: ...


class ShardCache:
    """Shards by content: `<sha256>.tar` in `directory`, never more than `limit_bytes` together.

    `<sha256>.part` is an arrival: a file of the shard's size that holds its place while the store
    writes the bytes beside it. The lock of a shard is held while it arrives, the directory's only
    while its files are counted and evicted. Locks end with the process that holds them.

    `fetches`, `fetched_bytes` and `hits` count what this process did.
    """

    def __init__(
        self, directory: Path, limit_bytes: int, policy: RetryPolicy = RetryPolicy()
    ) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.fetches = self.fetched_bytes = self.hits = 0
        self._policy = policy
        with local_files(directory):
            (directory / "locks").mkdir(parents=True, exist_ok=True)
            # A disk can rot between runs. What arrives later was checked by whoever fetched it.
            self._unchecked = {path.name for path in directory.glob("*.tar")}

    def open(self, store: Store, shard: CachedShard) -> BinaryIO:
        """The shard's bytes, which stay readable when the cache evicts it.

        Raises:
            UserError: the shard is larger than the cache, cannot be fetched, or is not what its
                digest says within the policy's budget; or the disk is full.
        """
        if shard.bytes > self.limit_bytes:
            raise UserError(
                f"shard {shard.path} has {shard.bytes / 2**20:.1f} MiB and the cache "
                f"{self.directory} may only have {self.limit_bytes / 2**20:.1f}: give it more, or "
                "make smaller shards."
            )
        with local_files(self.directory):
            if file := self._open_cached(shard):
                return file
            with self._lock(shard.sha256):
                # Another process may have fetched it while this one waited.
                return self._open_cached(shard, mine=True) or self._arrive(store, shard)

    def release(self, shard: CachedShard) -> None:
        """Makes a shard the first to be evicted, unless it is used again before."""
        with suppress(FileNotFoundError):
            os.utime(self.directory / f"{shard.sha256}.tar", ns=(0, 0))

    def _open_cached(self, shard: CachedShard, *, mine: bool = False) -> BinaryIO | None:
        """The cached file if it is intact; a damaged one is deleted by whoever holds its lock."""
        path = self.directory / f"{shard.sha256}.tar"
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        intact = os.fstat(file.fileno()).st_size == shard.bytes
        if intact and path.name in self._unchecked:
            intact = file_digest(file, "sha256").hexdigest() == shard.sha256
            file.seek(0)
        if not intact:
            file.close()
            if mine:
                log.warning("%s (shard %s) is damaged and is fetched again", path, shard.path)
                path.unlink(missing_ok=True)
            return None
        self._unchecked.discard(path.name)
        os.utime(file.fileno())
        self.hits += 1
        return file

    def _arrive(self, store: Store, shard: CachedShard) -> BinaryIO:
        part = self.directory / f"{shard.sha256}.part"
        self._make_room(part, shard)
        try:
            self._fetch(store, shard, part)
            file = part.open("rb")
            part.rename(part.with_suffix(".tar"))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._unchecked.discard(f"{shard.sha256}.tar")
        return file

    def _fetch(self, store: Store, shard: CachedShard, part: Path) -> None:
        retries = None
        while True:
            store.fetch(shard.path, part, size=shard.bytes)
            self.fetches += 1
            self.fetched_bytes += shard.bytes
            if (found := file_sha256(part)) == shard.sha256:
                return
            where = f"{store.location}/{shard.path}"
            retries = retries or Retries(self._policy, f"fetch {where}")
            wrong = ValueError(f"its sha256 is {found}, not {shard.sha256}")
            try:
                retries.failed(wrong)
            except UserError:
                raise UserError(
                    f"shard {where} is not what its manifest says, however often it is fetched "
                    f"({wrong}): delete it and run jobs/shard.py, or use an intact copy."
                ) from wrong
            # The wrong bytes must not lie beside the next ones.
            _reserve(part, shard.bytes)

    def _make_room(self, part: Path, shard: CachedShard) -> None:
        """Reserves the arrival's place, as soon as others leave enough of it."""
        # What a killed process left of this very shard, whose lock is held here.
        for path in (part, *self.directory.glob(f".{part.name}-*")):
            path.unlink(missing_ok=True)
        while True:
            with self._lock("directory"):
                if self._evict(self.limit_bytes - shard.bytes):
                    return _reserve(part, shard.bytes)
            # Arrivals of other processes fill the cache: they end soon, or are swept when killed.
            time.sleep(POLL_S)

    def _evict(self, most: int) -> bool:
        """Deletes the least recently used until at most `most` bytes are left, or says no."""
        self._sweep()
        used = sum(_stat(path)[1] for path in self.directory.glob("*.part"))
        if used > most:
            return False
        ages = {path: _stat(path) for path in self.directory.glob("*.tar")}
        used += sum(size for _, size in ages.values())
        for path in sorted(ages, key=lambda path: ages[path]):
            if used <= most:
                break
            path.unlink(missing_ok=True)
            used -= ages[path][1]
        return used <= most

    def _sweep(self) -> None:
        """Deletes what killed processes left: arrivals whose lock nobody holds."""
        for path in (*self.directory.glob("*.part"), *self.directory.glob(".*.part-*")):
            try:
                with self._lock(path.name.lstrip(".").partition(".")[0], timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue

    @contextmanager
    def _lock(self, name: str, timeout: float = -1) -> Iterator[None]:
        with FileLock(self.directory / "locks" / f"{name}.lock", timeout=timeout):
            yield


def _reserve(part: Path, size: int) -> None:
    """A file that counts as `size` bytes and holds none."""
    with part.open("wb") as file:
        file.truncate(size)


def _stat(path: Path) -> tuple[int, int]:
    """When a file was last used (ns) and its size; nothing for one that just went."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
