"""Brings the shards of the next blocks into the node's cache while the present ones are trained."""

import math
import threading
from collections.abc import Iterator
from types import TracebackType

from pipelines.data.dataset import Dataset
from pipelines.data.order import Block, SampleOrder
from pipelines.errors import UserError


class ShardPrefetcher:
    """A thread that fetches blocks in the order in which they begin, one block per lane ahead of
    the stream. For a dataset in a directory there is nothing to do, and no thread.

    Args:
        blocks: of this rank, from the stream's first position on.
        shards: the dataset's numbers of the order's shards.
        in_flight: samples of all ranks that are prepared ahead of the one being trained.
        world_size: number of ranks.

    Raises:
        UserError: the cache is too small for the shards that are open at once.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        blocks: Iterator[Block],
        shards: list[int],
        in_flight: int,
        world_size: int,
    ) -> None:
        self.dataset, self.order, self.shards, self.blocks = dataset, order, shards, blocks
        self.in_flight, self.ahead = in_flight, order.lanes_of_a_rank(world_size)
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
        """The batches from `position` on are being prepared."""
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
                    break  # overtaken: the stream has fetched what it needed of it
                try:
                    self.dataset.fetch(self.shards[shard])
                except (UserError, RuntimeError):
                    # The stream needs the same shard, meets the same error, and says so; or the
                    # process ends, where no thread can be started any more.
                    return
            known.append(block)

    def _wait_for_room(self, known: list[Block]) -> bool:
        """Until fewer blocks than the rank has lanes lie ahead; False when the stream has ended."""
        with self._changed:
            while not self._stopped:
                if sum(block.position > self._position for block in known) < self.ahead:
                    return True
                self._changed.wait()
            return False

    def _release(self, known: list[Block]) -> list[Block]:
        """Gives back the shards of blocks that are over, and returns the others: by the time of
        their last use alone, shards that wait for their first would be evicted before them."""
        trained = self._position - self.in_flight
        open_blocks = [block for block in known if self.order.end_of(block) > trained]
        needed = {shard for block in open_blocks for shard in block.shards}
        for shard in {shard for block in known for shard in block.shards} - needed:
            self.dataset.release(self.shards[shard])
        return open_blocks


def _check_room(dataset: Dataset, order: SampleOrder, shards: list[int], in_flight: int) -> None:
    """Room for every lane's present block, its next one, and those that are still in flight."""
    assert dataset.cache is not None
    largest = max(dataset.manifest.shards[shard].bytes for shard in shards)
    samples_per_block = order.window * order.num_samples / len(shards)
    blocks = order.lanes * (2 + math.ceil(in_flight / order.lanes / samples_per_block))
    needed = min(blocks * order.window, len(shards)) * largest
    if needed > dataset.cache.limit_bytes:
        raise UserError(
            f"stream.cache_mib={dataset.stream.cache_mib} is too small for the shards that are "
            f"open at once ({needed // largest} of up to {largest / 2**20:.1f} MiB): set at least "
            f"{-(-needed // 2**20)}, or smaller stream.lanes and stream.window."
        )
