"""Brings the shards of the next blocks into the node's cache, before the stream reads them."""

import math
import threading
from collections.abc import Iterator
from types import TracebackType

from pipelines.data.dataset import Dataset
from pipelines.data.order import Block, Order
from pipelines.errors import UserError


class ShardPrefetcher:
    """A thread that fetches blocks in the order of their beginnings.

    It stays as many blocks ahead of the stream as are open. For a dataset in a directory it does
    not start.

    Args:
        blocks: the blocks of this rank, from the stream's first position on.
        shards: the number in the manifest of each shard of the order.
        in_flight: the number of samples, of all ranks, that are prepared ahead of the training.
        world_size: the number of ranks.

    Raises:
        UserError: the cache is too small for the shards that are open at once.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        blocks: Iterator[Block],
        shards: list[int],
        in_flight: int,
        world_size: int,
    ) -> None:
        self.dataset, self.order, self.shards, self.blocks = dataset, order, shards, blocks
        self.in_flight, self.ahead = in_flight, order.open_blocks(world_size)
        self._changed = threading.Condition()
        self._position, self._stopped = -1, False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        if dataset.cache is not None:
            _check_room(dataset, order, shards, in_flight)

    def __enter__(self) -> "ShardPrefetcher":
        if self.dataset.cache is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def reached(self, position: int) -> None:
        """Tells the thread that the stream now prepares batches from `position` on."""
        with self._changed:
            self._position = position
            self._changed.notify()

    def _run(self) -> None:
        known: list[Block] = []
        for block in self.blocks:
            if not self._wait_for_room(known):
                return
            known = self._release(known)
            for shard in block.shards:
                if self._stopped:
                    return
                if self.order.end_of(block) <= self._position:
                    break  # the stream was faster, and has read this block already
                try:
                    self.dataset.fetch(self.shards[shard])
                except (UserError, RuntimeError):
                    # UserError: the stream needs this shard too, and reports its error.
                    # RuntimeError: the process ends, so no thread can start any more.
                    return
            known.append(block)

    def _wait_for_room(self, known: list[Block]) -> bool:
        """Waits until fewer blocks lie ahead than are open; returns False once the stream ends."""
        with self._changed:
            while not self._stopped:
                if sum(block.position > self._position for block in known) < self.ahead:
                    return True
                self._changed.wait()
            return False

    def _release(self, known: list[Block]) -> list[Block]:
        """Lets the cache evict the shards of past blocks first; returns the other blocks.

        Without this, the cache would judge shards by their last use alone. It would evict those
        that still wait for their first use.
        """
        trained = self._position - self.in_flight
        open_blocks = [block for block in known if self.order.end_of(block) > trained]
        needed = {shard for block in open_blocks for shard in block.shards}
        for shard in {shard for block in known for shard in block.shards} - needed:
            self.dataset.release(self.shards[shard])
        return open_blocks


def _check_room(dataset: Dataset, order: Order, shards: list[int], in_flight: int) -> None:
    """Refuses a cache without room for the present, next and in-flight blocks."""
    assert dataset.cache is not None
    largest = max(dataset.manifest.shards[shard].bytes for shard in shards)
    samples_per_block = order.window * order.num_samples / len(shards)
    at_once = order.open_blocks(1)
    blocks = at_once * (2 + math.ceil(in_flight / at_once / samples_per_block))
    needed = min(blocks * order.window, len(shards)) * largest
    if needed > dataset.cache.limit_bytes:
        raise UserError(
            f"stream.cache_mib={dataset.stream.cache_mib} is too small for the shards that are "
            f"open at once ({needed // largest} of up to {largest / 2**20:.1f} MiB): set at least "
            f"{-(-needed // 2**20)}, or smaller stream.lanes and stream.window."
        )
