"""Mixes samples that weights were trained on before with new ones, in a fixed ratio."""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from pipelines.data.dataset import Dataset
from pipelines.data.manifest import HISTORY, Manifest
from pipelines.data.order import Block, Draw, Order, SampleOrder


@dataclass(frozen=True)
class Replay:
    """The part of a dataset that is replayed.

    Attributes:
        share: share of the samples that come from it, from 0 to below 1.
        earlier: the numbers of its training shards in the manifest.
    """

    share: float
    earlier: tuple[int, ...]


def earlier_shards(dataset: Dataset, digest: str) -> tuple[int, ...]:
    """Returns the numbers of the training shards that an earlier manifest of a dataset holds, too.

    Args:
        digest: the digest of a manifest. If it is none of this dataset's, nothing is earlier.

    Raises:
        UserError: the manifest is damaged, or the store fails.
    """
    store, name = dataset.store, f"{HISTORY}/{digest}.json"
    if not digest or store.size(name) is None:
        return ()
    known = {shard.sha256 for shard in Manifest.load(store, name).shards}
    manifest = dataset.manifest
    return tuple(i for i in manifest.shard_numbers("train") if manifest.shards[i].sha256 in known)


class MixedOrder(Order):
    """Two orders, of earlier and of new samples, that take turns.

    A turn is one sample of each lane, so that a rank reads those lanes of both that are its own.
    Each of the two goes through epochs of its own.

    Args:
        earlier: the order of the earlier samples.
        new: the order of the new ones, with as many lanes. Its shards are numbered after those of
            `earlier`.
        share: share of the turns that are the earlier one's, above 0 and below 1.
    """

    def __init__(self, earlier: SampleOrder, new: SampleOrder, share: float) -> None:
        assert earlier.lanes == new.lanes
        self.num_samples = earlier.num_samples + new.num_samples
        self.window, self.lanes = max(earlier.window, new.window), new.lanes
        # A fraction, since the product of a float and a large turn is not exact.
        taken = Fraction(str(share))
        self._earlier = _Earlier(earlier, taken, 0)
        self._new = _New(new, 1 - taken, len(earlier.counts))

    def __getitem__(self, position: int) -> Draw:
        part, own = self._inside(position)
        draw = part.order[own]
        return replace(draw, position=position, shard=draw.shard + part.first_shard)

    def blocks(self, position: int, rank: int = 0, world_size: int = 1) -> Iterator[Block]:
        parts = (self._earlier, self._new)
        streams = (self._blocks(part, position, rank, world_size) for part in parts)
        return heapq.merge(*streams, key=lambda block: (block.position, block.lane))

    def end_of(self, block: Block) -> int:
        part, own = self._inside(block.position)
        return self._outside(part, own + (block.end - block.start) * self.lanes)

    def open_blocks(self, world_size: int) -> int:
        return sum(part.order.open_blocks(world_size) for part in (self._earlier, self._new))

    def _inside(self, position: int) -> "tuple[_Part, int]":
        """Returns whose turn a position is in, and the position in that order."""
        turn, lane = divmod(position, self.lanes)
        part = self._earlier if self._earlier.has(turn) else self._new
        return part, part.before(turn) * self.lanes + lane

    def _outside(self, part: "_Part", own: int) -> int:
        """Returns the position in this order of a position in one of the two."""
        number, lane = divmod(own, self.lanes)
        return part.turn(number) * self.lanes + lane

    def _blocks(self, part: "_Part", position: int, rank: int, world_size: int) -> Iterator[Block]:
        turn, lane = divmod(position, self.lanes)
        reached = part.before(turn) * self.lanes + (lane if part.has(turn) else 0)
        for block in part.order.blocks(reached, rank, world_size):
            shards = tuple(shard + part.first_shard for shard in block.shards)
            yield replace(block, position=self._outside(part, block.position), shards=shards)


@dataclass(frozen=True)
class _Part(ABC):
    """One of the two orders, its share of the turns, and the number of its first shard."""

    order: SampleOrder
    share: Fraction
    first_shard: int

    @abstractmethod
    def before(self, turn: int) -> int:
        """Returns how many of the turns before `turn` are this part's."""

    @abstractmethod
    def turn(self, number: int) -> int:
        """Returns the turn that is this part's `number`-th, counted from 0."""

    def has(self, turn: int) -> bool:
        """Returns whether a turn is this part's."""
        return self.before(turn + 1) > self.before(turn)


class _Earlier(_Part):
    def before(self, turn: int) -> int:
        return math.floor(turn * self.share)

    def turn(self, number: int) -> int:
        return math.ceil((number + 1) / self.share) - 1


class _New(_Part):
    def before(self, turn: int) -> int:
        return math.ceil(turn * self.share)

    def turn(self, number: int) -> int:
        return math.floor(number / self.share)
