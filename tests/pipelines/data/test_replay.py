import shutil
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config.schema import StreamConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import Manifest
from pipelines.data.order import SampleOrder
from pipelines.data.replay import MixedOrder, Replay, earlier_shards
from pipelines.data.stream import training_order
from pipelines.storage.store import open_store

shards = st.lists(st.integers(1, 9), min_size=1, max_size=8)
shares = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.7, 0.95])


@st.composite
def mixtures(draw: st.DrawFn) -> MixedOrder:
    counts = draw(shards), draw(shards)
    lanes = min(draw(st.integers(1, 6)), *map(sum, counts))
    window = draw(st.integers(1, 4))
    earlier, new = (SampleOrder("ab", 3, own, window=window, lanes=lanes) for own in counts)
    return MixedOrder(earlier, new, draw(shares))


def parts(order: MixedOrder) -> tuple[SampleOrder, SampleOrder]:
    return order._earlier.order, order._new.order


@given(order=mixtures(), turns=st.integers(1, 200))
def test_every_stretch_has_its_share_of_earlier_samples(order: MixedOrder, turns: int) -> None:
    first = len(parts(order)[0].counts)
    draws = [order[position] for position in range(turns * order.lanes)]
    earlier = sum(draw.shard < first for draw in draws) // order.lanes
    assert abs(earlier - turns * order._earlier.share) < 1


@given(order=mixtures())
def test_each_part_goes_through_its_own_epochs(order: MixedOrder) -> None:
    earlier, new = parts(order)
    first = len(earlier.counts)
    draws = [order[position] for position in range(400)]
    for part, own in (
        (earlier, [draw for draw in draws if draw.shard < first]),
        (new, [draw for draw in draws if draw.shard >= first]),
    ):
        offset = 0 if part is earlier else first
        expected = [part[i] for i in range(len(own))]
        assert [(d.shard - offset, d.row, d.epoch) for d in own] == [
            (d.shard, d.row, d.epoch) for d in expected
        ]
    assert [draw.position for draw in draws] == list(range(400))


@settings(max_examples=50)
@given(order=mixtures(), step=st.integers(0, 40), world=st.sampled_from([1, 2, 3, 4]))
def test_ranks_share_what_one_rank_would_see(order: MixedOrder, step: int, world: int) -> None:
    found = [order.step(step, 12, rank, world) for rank in range(world)]
    together = [draw for draws in zip(*found, strict=True) for draw in draws]
    assert together == order.step(step, 12, 0, 1)


@settings(max_examples=60)
@given(order=mixtures(), start=st.integers(0, 200), world=st.sampled_from([1, 2, 3, 4]))
def test_blocks_name_every_shard_while_it_is_needed(
    order: MixedOrder, start: int, world: int
) -> None:
    """At each position of a rank, a block that has begun and has not ended names its shard."""
    end = start + 60
    for rank in range(world):
        blocks, last = [], 0
        for block in order.blocks(start, rank, world):
            assert block.position >= last
            last = block.position
            if block.position >= end:
                break
            blocks.append(block)
        for position in range(start, end):
            if position % world == rank:
                now = [b for b in blocks if b.position <= position < order.end_of(b)]
                assert order[position].shard in {shard for b in now for shard in b.shards}


@pytest.fixture
def appended(dataset: Path, tmp_path: Path) -> tuple[Path, str, tuple[int, ...]]:
    """A dataset, the digest of an earlier manifest that lacks its last training shard, and the
    numbers of the shards that the earlier one holds."""
    own = shutil.copytree(dataset, tmp_path / "own")
    store = open_store(str(own))
    now = Manifest.load(store)
    *kept, gone = now.shard_numbers("train")
    before = Manifest(now.settings, tuple(s for i, s in enumerate(now.shards) if i != gone))
    before.save(store)
    now.save(store)
    return own, before.digest, tuple(kept)


def test_what_an_earlier_manifest_holds_is_earlier(
    appended: tuple[Path, str, tuple[int, ...]],
) -> None:
    location, digest, kept = appended
    dataset = open_dataset(str(location), StreamConfig())
    assert earlier_shards(dataset, digest) == kept
    assert earlier_shards(dataset, dataset.manifest.digest) == (*kept, kept[-1] + 1)
    assert earlier_shards(dataset, "0" * 64) == earlier_shards(dataset, "") == ()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75])
def test_a_stream_mixes_the_shards_of_a_dataset(
    appended: tuple[Path, str, tuple[int, ...]], share: float
) -> None:
    location, digest, kept = appended
    dataset = open_dataset(str(location), StreamConfig(window=2, lanes=2))
    replay = Replay(share, earlier_shards(dataset, digest))
    order, numbers = training_order(dataset, 0, replay)
    found = [numbers[order[position].shard] for position in islice(range(10**6), 80)]
    assert sum(number in kept for number in found) == share * 80
    assert set(numbers) <= set(dataset.manifest.shard_numbers("train"))


def test_without_replay_the_order_is_as_it_was(
    appended: tuple[Path, str, tuple[int, ...]],
) -> None:
    dataset = open_dataset(str(appended[0]), StreamConfig(window=2, lanes=2))
    order, numbers = training_order(dataset, 0)
    assert isinstance(order, SampleOrder)
    assert numbers == dataset.manifest.shard_numbers("train")
