from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.order import Draw, SampleOrder, sample_seed

orders = st.builds(
    SampleOrder,
    manifest_digest=st.text("0123456789abcdef", min_size=8, max_size=8),
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    window=st.integers(1, 5),
    lanes=st.integers(1, 9),
)


def everything(order: SampleOrder) -> Counter[tuple[int, int]]:
    return Counter((s, row) for s, count in enumerate(order.counts) for row in range(count))


def place(draw: Draw) -> tuple[int, int]:
    return draw.shard, draw.row


@given(order=orders, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(order: SampleOrder, epoch: int) -> None:
    first = epoch * order.num_samples
    draws = [order[first + i] for i in range(order.num_samples)]
    assert Counter(map(place, draws)) == everything(order)
    assert {draw.epoch for draw in draws} == {epoch}


@settings(max_examples=50)
@given(order=orders, step=st.integers(0, 40), world=st.sampled_from([1, 2, 3, 4, 8]))
def test_ranks_interleave_to_the_same_stream(order: SampleOrder, step: int, world: int) -> None:
    alone = order.step(step, 24, rank=0, world_size=1)
    shares = [order.step(step, 24, rank, world) for rank in range(world)]
    together = [draw for draws in zip(*shares, strict=True) for draw in draws]
    assert together == alone
    assert [draw.position for draw in alone] == list(range(24 * step, 24 * step + 24))


@settings(max_examples=50)
@given(
    order=orders,
    legs=st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 4)), max_size=5),
)
def test_resuming_at_another_world_size_goes_on_without_a_repeat_or_a_gap(
    order: SampleOrder, legs: list[tuple[int, int]]
) -> None:
    """A run that is stopped and goes on again and again, each time with another world size, knows
    nothing but how many samples it has consumed."""
    consumed: list[Draw] = []
    for world, steps in legs:
        fresh = SampleOrder("", 0, order.counts, window=order.window, lanes=order.lanes)
        fresh.identity = order.identity
        step = len(consumed) // 24
        for number in range(step, step + steps):
            shares = [fresh.step(number, 24, rank, world) for rank in range(world)]
            consumed += [draw for draws in zip(*shares, strict=True) for draw in draws]
    assert consumed == [order[i] for i in range(len(consumed))]


@given(order=orders, position=st.integers(0, 500))
def test_a_position_does_not_depend_on_what_was_asked_before(
    order: SampleOrder, position: int
) -> None:
    fresh = SampleOrder("x", 0, order.counts, window=order.window, lanes=order.lanes)
    fresh.identity = order.identity
    order[position // 2]
    assert order[position] == fresh[position]


@given(order=orders, start=st.integers(0, 300), world=st.sampled_from([1, 2, 3, 4, 8]))
def test_blocks_name_every_shard_before_it_is_needed(
    order: SampleOrder, start: int, world: int
) -> None:
    """The shard of each sample of a rank is in a block that began at or before it."""
    end = start + 2 * order.num_samples
    for rank in range(world):
        begun: dict[int, set[int]] = {}
        for block in order.blocks(start, rank, world):
            if block.position >= end:
                break
            begun.setdefault(block.lane, set()).update(block.shards)
            assert len(block.shards) <= order.window
        wanted = [order[p] for p in range(start, end) if p % world == rank % world]
        named = set().union(*begun.values()) if begun else set()
        assert {draw.shard for draw in wanted} <= named


@given(order=orders, start=st.integers(0, 300))
def test_at_any_time_only_one_block_per_lane_is_open(order: SampleOrder, start: int) -> None:
    blocks = list(islice(order.blocks(start), 4 * order.lanes))
    horizon = blocks[-1].position
    for position in range(start, min(horizon, start + 60)):
        lane = (position % order.num_samples) % order.lanes
        current = [b for b in blocks if b.lane == lane and b.position <= position]
        assert order[position].shard in current[-1].shards


def test_ranks_that_divide_the_lanes_read_shards_of_their_own() -> None:
    order = SampleOrder("a", 0, [50] * 64, window=4, lanes=8)
    for world in (2, 4, 8):
        shards = [
            {order[p].shard for p in range(rank, order.num_samples, world)} for rank in range(world)
        ]
        # Only a shard on the border of two lanes may be read by two ranks; here there is none.
        assert sum(map(len, shards)) == 64


def test_epochs_seeds_and_datasets_differ() -> None:
    def epoch(order: SampleOrder, number: int) -> list[tuple[int, int]]:
        return [place(order[number * 50 + i]) for i in range(50)]

    def make(digest: str, seed: int) -> SampleOrder:
        return SampleOrder(digest, seed, [10] * 5, window=2, lanes=2)

    order = make("a", 0)
    epochs = [tuple(epoch(order, number)) for number in range(20)]
    assert len(set(epochs)) == 20
    assert epoch(order, 0) != epoch(make("a", 1), 0)
    assert epoch(order, 0) != epoch(make("b", 0), 0)


def test_a_shuffle_is_no_slow_walk_through_the_shards() -> None:
    """The samples of a batch come from all open shards, not from one after the other."""
    order = SampleOrder("a", 0, [100] * 40, window=5, lanes=4)
    for step in range(5):
        assert len({draw.shard for draw in order.step(step, 64, 0, 1)}) >= 15


def test_a_sample_s_seed_is_its_own() -> None:
    seeds = {sample_seed(s, k, e) for s in range(10) for k in ("a", "b") for e in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Written down, so that another machine or another release can be held against it.
    assert sample_seed(0, "0123456789abcdef-0000", 0) == 8191549673403759296
    order = SampleOrder("digest", 7, [3, 5, 2, 4], window=2, lanes=2)
    assert [place(order[i]) for i in range(14)] == [
        *((3, 1), (3, 3), (1, 2), (2, 1), (1, 1), (3, 2), (1, 3)),
        *((2, 0), (1, 0), (0, 1), (3, 0), (0, 2), (1, 4), (0, 0)),
    ]


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_sets_smaller_than_the_lanes_work(lanes: int) -> None:
    order = SampleOrder("a", 0, [2], window=4, lanes=lanes)
    assert {place(order[i]) for i in range(2)} == {(0, 0), (0, 1)}
    assert order.step(0, 4, 0, 1)[2].epoch == 1
