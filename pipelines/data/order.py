"""Says which sample is trained at which position, as a pure function of (manifest digest, seed).

An epoch shuffles the shards, and puts their samples into one row. It cuts the row into `lanes`
parts of equal length, and shuffles each lane in blocks of `window` shards. It takes samples from
the lanes in turn: positions 0, 1, 2, … of an epoch come from lanes 0, 1, 2, …

So every sample comes once per epoch, and only the shards of one block per lane are open at a time.
If the number of ranks divides the number of lanes, each rank reads shards of its own.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Draw:
    """The sample at one position of the global stream.

    Attributes:
        shard: the shard's index in the list of training shards.
        row: the sample's index in the shard.
    """

    position: int
    epoch: int
    shard: int
    row: int


@dataclass(frozen=True)
class Block:
    """A stretch of one lane whose samples are shuffled together.

    Attributes:
        number: the block's index in its lane.
        start: the first place of the block in the epoch's row of samples.
        end: the place after its last one.
        position: the first position of the global stream that needs it.
        shards: the shards that it reads from, as indices in the list of training shards.
    """

    lane: int
    number: int
    start: int
    end: int
    position: int
    shards: tuple[int, ...]


class Order(ABC):
    """An endless global stream of samples.

    It is a pure function of what it was made with. It does not depend on workers, nodes, loader
    processes or prefetch. The state to resume from is the number of samples consumed.

    Attributes:
        num_samples: the number of samples that it draws from.
        window: the number of shards per block.
        lanes: the number of lanes.
    """

    num_samples: int
    window: int
    lanes: int

    @abstractmethod
    def __getitem__(self, position: int) -> Draw:
        """Returns the sample at a position, 0 or greater."""

    def step(self, step: int, batch_size: int, rank: int, world_size: int) -> list[Draw]:
        """Returns a rank's share of a global batch: every `world_size`-th, from `rank` on."""
        first = step * batch_size
        return [self[first + i] for i in range(rank, batch_size, world_size)]

    @abstractmethod
    def blocks(self, position: int, rank: int = 0, world_size: int = 1) -> Iterator[Block]:
        """Yields the blocks that a rank reads from `position` on, ordered by their beginning."""

    @abstractmethod
    def end_of(self, block: Block) -> int:
        """Returns the first position that does not need a block any more."""

    @abstractmethod
    def open_blocks(self, world_size: int) -> int:
        """Returns the number of blocks that each of `world_size` ranks reads at once."""


class SampleOrder(Order):
    """A stream in which every sample comes once per epoch.

    Args:
        manifest_digest: the identity of the dataset.
        seed: the seed of the order.
        counts: the number of samples in each training shard.
        window: the number of shards per block.
        lanes: the number of lanes; a smaller dataset has one lane per sample.
    """

    def __init__(
        self, manifest_digest: str, seed: int, counts: Sequence[int], *, window: int, lanes: int
    ) -> None:
        assert min(*counts, window, lanes) > 0
        self.identity = f"{manifest_digest}:{seed}"
        self.counts = list(counts)
        self.num_samples = sum(counts)
        self.window, self.lanes = window, min(lanes, self.num_samples)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._permutation = lru_cache(maxsize=4 * self.lanes)(self._permute)

    def __getitem__(self, position: int) -> Draw:
        epoch, place = divmod(position, self.num_samples)
        index, lane = divmod(place, self.lanes)
        plan = self._epoch(epoch)
        block = plan.block(lane, index)
        permutation = self._permutation(epoch, block)
        at = block.start + int(permutation[plan.lane_starts[lane] + index - block.start])
        slot = bisect_right(plan.starts, at) - 1
        return Draw(position, epoch, plan.shards[slot], at - plan.starts[slot])

    def blocks(self, position: int, rank: int = 0, world_size: int = 1) -> Iterator[Block]:
        epoch = position // self.num_samples
        while True:
            first = epoch * self.num_samples
            divisor = math.gcd(self.lanes, world_size)
            mine = [lane for lane in range(self.lanes) if (first + lane - rank) % divisor == 0]
            plan = self._epoch(epoch)
            found = [block for lane in mine for block in plan.blocks[lane]]
            for block in sorted(found, key=lambda block: (block.position, block.lane)):
                if self.end_of(block) > position:
                    yield block
            epoch += 1

    def open_blocks(self, world_size: int) -> int:
        return self.lanes // math.gcd(self.lanes, world_size)

    def end_of(self, block: Block) -> int:
        return block.position + (block.end - block.start) * self.lanes

    def _plan_epoch(self, epoch: int) -> "_Epoch":
        shards = self._generator("shards", epoch).permutation(len(self.counts))
        first = epoch * self.num_samples
        return _Epoch(first, shards.tolist(), self.counts, self.lanes, self.window)

    def _permute(self, epoch: int, block: Block) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        generator = self._generator("block", epoch, block.lane, block.number)
        return generator.permutation(block.end - block.start)

    def _generator(self, *purpose: object) -> np.random.Generator:
        return np.random.default_rng(hashed(self.identity, *purpose))


class _Epoch:
    """The shards of one epoch in their order, and its blocks."""

    def __init__(
        self, first: int, shards: list[int], counts: list[int], lanes: int, window: int
    ) -> None:
        self.first, self.shards = first, shards
        self.starts = [0]
        for shard in shards:
            self.starts.append(self.starts[-1] + counts[shard])
        total = self.starts[-1]
        # Position p belongs to lane p % lanes: the first lanes are longer by one.
        lengths = [(total - lane + lanes - 1) // lanes for lane in range(lanes)]
        self.lane_starts = [sum(lengths[:lane]) for lane in range(lanes)]
        self.blocks = [
            self._blocks(lane, self.lane_starts[lane], lengths[lane], lanes, window)
            for lane in range(lanes)
        ]
        self._block_starts = [[block.start for block in blocks] for blocks in self.blocks]

    def _blocks(self, lane: int, start: int, length: int, lanes: int, window: int) -> list[Block]:
        first = bisect_right(self.starts, start) - 1
        last = bisect_right(self.starts, start + length - 1)
        blocks = []
        for number, slot in enumerate(range(first, last, window)):
            end_slot = min(slot + window, last)
            low = max(self.starts[slot], start)
            high = min(self.starts[end_slot], start + length)
            position = self.first + (low - start) * lanes + lane
            touched = tuple(self.shards[slot:end_slot])
            blocks.append(Block(lane, number, low, high, position, touched))
        return blocks

    def block(self, lane: int, index: int) -> Block:
        """Returns the block that holds the `index`-th sample of a lane."""
        place = self.lane_starts[lane] + index
        return self.blocks[lane][bisect_right(self._block_starts[lane], place) - 1]


def hashed(*parts: object) -> int:
    """Returns a 64-bit hash of the texts of `parts`, equal on every machine."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def sample_seed(seed: int, key: str, epoch: int) -> int:
    """Returns the 63-bit seed of a sample's crop, flips, degradation and noise in a stage.

    It depends on (seed, sample, epoch) alone, not on the place or time of the draw.
    """
    return hashed("sample", seed, key, epoch) & 0x7FFFFFFFFFFFFFFF
