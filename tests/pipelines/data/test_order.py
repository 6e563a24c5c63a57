from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.order import SampleOrder

orders = st.builds(
    SampleOrder,
    manifest_digest=st.text("0123456789abcdef", min_size=8, max_size=8),
    seed=st.integers(0, 2**31),
    num_samples=st.integers(1, 60),
)


@given(order=orders, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(order: SampleOrder, epoch: int) -> None:
    first = epoch * order.num_samples
    indices = [order[first + i].index for i in range(order.num_samples)]
    assert Counter(indices) == Counter(range(order.num_samples))


@settings(max_examples=50)
@given(order=orders, step=st.integers(0, 40), split=st.sampled_from([1, 2, 3, 4, 6]))
def test_ranks_interleave_to_the_same_stream(order: SampleOrder, step: int, split: int) -> None:
    alone = order.step(step, 12, rank=0, world_size=1)
    shares = [order.step(step, 12, rank, split) for rank in range(split)]
    together = [draw for draws in zip(*shares, strict=True) for draw in draws]
    assert together == alone


@given(order=orders, position=st.integers(0, 500))
def test_a_position_does_not_depend_on_what_was_asked_before(
    order: SampleOrder, position: int
) -> None:
    fresh = SampleOrder("x", 0, order.num_samples)
    fresh.identity = order.identity
    order[position // 2]
    assert order[position] == fresh[position]


def test_epochs_seeds_and_datasets_differ() -> None:
    order = SampleOrder("a", 0, 50)

    def epoch(order: SampleOrder, number: int) -> list[int]:
        return [order[number * 50 + i].index for i in range(50)]

    assert epoch(order, 0) != epoch(order, 1)
    assert epoch(order, 0) != epoch(SampleOrder("a", 1, 50), 0)
    assert epoch(order, 0) != epoch(SampleOrder("b", 0, 50), 0)
    assert len({order[i].seed for i in range(1000)}) == 1000
