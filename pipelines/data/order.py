"""Which sample is trained at which position: a function of (manifest digest, seed) alone.

An epoch shuffles the shards and lays their samples in one row, which is cut into `lanes` parts of
equal length. Each lane is shuffled in blocks of `window` shards, and the lanes are read side by
side: positions 0, 1, 2, … of an epoch come from lanes 0, 1, 2, … So every sample comes once per
epoch, at any time only the shards of one block per lane are open, and where the number of
ranks divides the lanes, each rank reads shards of its own.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Draw:
    """What stands at one position of the global stream: the sample at `row` of shard `shard` (a
    place in the list of training shards)."""

    position: int
    epoch: int
    shard: int
    row: int


@dataclass(frozen=True)
class Block:
    """A stretch of one lane whose samples are shuffled: from place `start` to `end` of the epoch's
    row of samples, first needed at `position` of the global stream. `shards`: those it touches."""

    lane: int
    number: int
    start: int
    end: int
    position: int
    shards: tuple[int, ...]


class SampleOrder:
    """The global stream of samples, without end.

    A pure function of its arguments: workers, nodes, loader processes and prefetch play no part,
    and the state to resume from is the number of samples consumed.

    Args:
        manifest_digest: identity of the dataset.
        seed: another seed, another order.
        counts: samples in each training shard.
        window: shards per block.
        lanes: see above; fewer where there are fewer samples.
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

    def step(self, step: int, batch_size: int, rank: int, world_size: int) -> list[Draw]:
        """A rank's share of a global batch: every `world_size`-th position, from `rank` on."""
        first = step * batch_size
        return [self[first + i] for i in range(rank, batch_size, world_size)]

    def blocks(self, position: int, rank: int = 0, world_size: int = 1) -> Iterator[Block]:
        """The blocks that a rank reads from `position` on, in the order in which they begin."""
        epoch = position // self.num_samples
        while True:
            first = epoch * self.num_samples
            divisor = self.lanes // self.lanes_of_a_rank(world_size)
            mine = [lane for lane in range(self.lanes) if (first + lane - rank) % divisor == 0]
            plan = self._epoch(epoch)
            found = [block for lane in mine for block in plan.blocks[lane]]
            for block in sorted(found, key=lambda block: (block.position, block.lane)):
                if self.end_of(block) > position:
                    yield block
            epoch += 1

    def lanes_of_a_rank(self, world_size: int) -> int:
        """How many lanes each of `world_size` ranks reads."""
        return self.lanes // math.gcd(self.lanes, world_size)

    def end_of(self, block: Block) -> int:
        """The position from which on a block is not needed any more."""
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
    """One epoch's shards in their order, and its blocks."""

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
        """The block that holds the `index`-th sample of a lane."""
        place = self.lane_starts[lane] + index
        return self.blocks[lane][bisect_right(self._block_starts[lane], place) - 1]


def hashed(*parts: object) -> int:
    """64 bits that follow from `parts` alone, on every machine."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def sample_seed(seed: int, key: str, epoch: int) -> int:
    """63 bits: the source of a sample's crop, flips, degradation and of the stage's noise. The
    same for a (seed, sample, epoch) wherever and whenever it is drawn."""
    return hashed("sample", seed, key, epoch) & 0x7FFFFFFFFFFFFFFF
