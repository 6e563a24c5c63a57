import pytest

from pipelines.config.schema import GroupConfig, TrainConfig
from pipelines.training.schedule import learning_rate


def rates(train: TrainConfig, *steps: int, group: str = "unet") -> list[float]:
    return [learning_rate(train, group, step) for step in steps]


def test_warm_up_is_linear_and_its_first_step_is_not_zero() -> None:
    train = TrainConfig(learning_rate=1.0, warmup_steps=4, schedule="constant")
    assert rates(train, 0, 1, 3, 4, 999) == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_cosine_is_half_way_down_in_the_middle_and_zero_at_the_end() -> None:
    train = TrainConfig(learning_rate=2.0, warmup_steps=0, steps=100)
    assert rates(train, 0, 50, 100, 150) == pytest.approx([2.0, 1.0, 0.0, 0.0])


def test_step_drops_at_each_boundary() -> None:
    train = TrainConfig(
        learning_rate=1.0, warmup_steps=0, schedule="step", decay_steps=[10, 20], decay_factor=0.1
    )
    assert rates(train, 9, 10, 20) == pytest.approx([1.0, 0.1, 0.01])


def test_a_group_may_begin_later_and_then_warms_up() -> None:
    late = GroupConfig(start_step=10)
    train = TrainConfig(
        learning_rate=1.0, warmup_steps=2, schedule="constant", groups={"lr_encoder": late}
    )
    assert rates(train, 0, 9, 10, 11, group="lr_encoder") == [0.0, 0.0, 0.5, 1.0]
    assert rates(train, 0, 1) == [0.5, 1.0]


def test_a_group_may_have_its_own_of_everything() -> None:
    own = GroupConfig(learning_rate=0.1, warmup_steps=0, schedule="constant")
    train = TrainConfig(learning_rate=1.0, warmup_steps=10, steps=100, groups={"lr_encoder": own})
    assert rates(train, 0, 99, group="lr_encoder") == [0.1, 0.1]
    own.schedule = own.warmup_steps = None
    assert rates(train, 4, 60, group="lr_encoder") == pytest.approx(
        [0.1 * rate for rate in rates(train, 4, 60)]
    )
