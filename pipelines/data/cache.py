"""Keeps shards in a bounded folder of a node, so that the node fetches each shard once.

All processes of a node share the folder: ranks, loader processes, the next run.
"""

import logging
import os
import re
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
#: The names of shards, of arrivals, and of files that `Store.fetch` writes beside those.
SHARD = re.compile(r"[0-9a-f]{64}\.tar")
ARRIVAL = re.compile(r"[0-9a-f]{64}\.part")
WRITTEN = re.compile(rf"\.{ARRIVAL.pattern}-\w+")


class CachedShard(Protocol):
    """The fields of `pipelines.data.manifest.Shard` that the cache reads."""

    @property
    def path(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def bytes(self) -> int: ...


class ShardCache:
    """The cached shards, by content: `<sha256>.tar` in `directory`, at most `limit_bytes` in all.

    `<sha256>.part` is an arrival: a file of the shard's size that reserves space while the store
    writes the bytes beside it. A process holds the lock of a shard while the shard arrives. It
    holds the lock of the directory only while it counts and evicts files. A lock ends with the
    process that holds it. Files of other names are not the cache's, and stay.

    Attributes:
        fetches: the number of shards that this process fetched.
        fetched_bytes: the number of bytes that it fetched.
        hits: the number of times that it found a shard in the cache.
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
            # A disk can damage files between runs. Whoever fetches a shard later checks it.
            self._unchecked = {path.name for path in self._files(SHARD)}

    def open(self, store: Store, shard: CachedShard) -> BinaryIO:
        """Returns the open file of a shard, which stays readable if the cache evicts the shard.

        Raises:
            UserError: the shard is larger than the cache or cannot be fetched, its digest stays
                wrong for the policy's budget, or the disk is full.
        """
        if shard.bytes > self.limit_bytes:
            raise UserError(
                f"shard {shard.path} has {shard.bytes / 2**20:.1f} MiB and the cache "
                f"{self.directory} may hold only {self.limit_bytes / 2**20:.1f}: set a larger "
                "stream.cache_mib, or shard with a smaller shard.shard_mib "
                "(jobs/shard.py)."
            )
        with local_files(self.directory):
            if file := self._open_cached(shard):
                return file
            with self._lock(shard.sha256):
                # Another process may have fetched it while this one waited.
                return self._open_cached(shard, mine=True) or self._arrive(store, shard)

    def release(self, shard: CachedShard) -> None:
        """Marks a shard as the first to evict, unless somebody uses it again."""
        with suppress(FileNotFoundError):
            os.utime(self.directory / f"{shard.sha256}.tar", ns=(0, 0))

    def _open_cached(self, shard: CachedShard, *, mine: bool = False) -> BinaryIO | None:
        """Returns the cached file if it is intact; deletes a damaged one if its lock is `mine`."""
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
            # The wrong bytes must go before the next ones arrive: both exceed the limit.
            _reserve(part, shard.bytes)

    def _make_room(self, part: Path, shard: CachedShard) -> None:
        """Reserves space for an arrival, as soon as there is enough."""
        # This process holds the shard's lock, so a killed process left these files.
        for path in (part, *self.directory.glob(f".{part.name}-*")):
            path.unlink(missing_ok=True)
        while True:
            with self._lock("directory"):
                if self._evict(self.limit_bytes - shard.bytes):
                    return _reserve(part, shard.bytes)
            # Arrivals of other processes fill the cache. They end soon, or `_evict` sweeps them
            # after their process was killed.
            self._policy.clock.sleep(POLL_S)

    def _evict(self, most: int) -> bool:
        """Deletes least recently used shards; returns True if at most `most` bytes stay."""
        self._sweep()
        used = sum(_stat(path)[1] for path in self._files(ARRIVAL))
        if used > most:
            return False
        ages = {path: _stat(path) for path in self._files(SHARD)}
        used += sum(size for _, size in ages.values())
        for path in sorted(ages, key=lambda path: ages[path]):
            if used <= most:
                break
            path.unlink(missing_ok=True)
            used -= ages[path][1]
        return used <= most

    def _sweep(self) -> None:
        """Deletes arrivals whose lock nobody holds: killed processes left them."""
        for path in (*self._files(ARRIVAL), *self._files(WRITTEN)):
            try:
                with self._lock(path.name.lstrip(".").partition(".")[0], timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue

    def _files(self, names: re.Pattern[str]) -> list[Path]:
        return [path for path in self.directory.iterdir() if names.fullmatch(path.name)]

    @contextmanager
    def _lock(self, name: str, timeout: float = -1) -> Iterator[None]:
        with FileLock(self.directory / "locks" / f"{name}.lock", timeout=timeout):
            yield


def _reserve(part: Path, size: int) -> None:
    """Makes a sparse file of `size` bytes, which takes no space on the disk yet."""
    with part.open("wb") as file:
        file.truncate(size)


def _stat(path: Path) -> tuple[int, int]:
    """Returns the time of a file's last use (ns) and its size in bytes; zeros if it is gone."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size
