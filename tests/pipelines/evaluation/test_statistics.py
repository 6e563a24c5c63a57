import numpy as np
import pytest

from pipelines.evaluation.statistics import Comparison, compare, judge

KEYS = [f"{number:03}" for number in range(100)]
ALONE = {key: key for key in KEYS}


def scores(mean: float, deviation: float = 0.0, seed: int = 0) -> dict[str, float]:
    noise = np.random.default_rng(seed).normal(mean, deviation, len(KEYS))
    return dict(zip(KEYS, noise.tolist(), strict=True))


def verdict(first: dict, second: dict, *, higher: bool = True, margin: float = 0.1) -> str:
    return compare(first, second, ALONE, higher_is_better=higher, margin=margin).verdict


def test_the_comparison_is_paired() -> None:
    """Images differ by ten, methods by one on each: unpaired, nobody could tell."""
    second = scores(30, 10)
    first = {key: score + 1 + 0.1 * int(key) / 100 for key, score in second.items()}
    found = compare(first, second, ALONE, higher_is_better=True, margin=0.02)
    assert found.difference == pytest.approx(1.0495)
    assert found.low is not None
    assert found.high is not None
    assert 1.04 < found.low < found.difference < found.high < 1.06
    assert found.win_rate == 1
    assert found.num_images == 100
    assert found.worst == KEYS[:5]
    assert found.best == KEYS[:-6:-1]


def test_the_interval_is_that_of_the_mean() -> None:
    """The interval of 100 differences with deviation 1 is ± 1.96 / √100."""
    difference = scores(0.5, 1.0)
    found = compare(difference, scores(0), ALONE, higher_is_better=True, margin=0)
    assert found.low is not None
    assert found.high is not None
    deviation = np.std(list(difference.values()))
    assert found.difference - found.low == pytest.approx(0.196 * deviation, rel=0.08)
    assert found.high - found.difference == pytest.approx(0.196 * deviation, rel=0.08)
    again = compare(difference, scores(0), ALONE, higher_is_better=True, margin=0)
    assert (again.low, again.high) == (found.low, found.high)


def test_tiles_of_a_photo_are_not_independent() -> None:
    """Ten photos of ten tiles each, which all say what their photo says: ten facts, not 100."""
    groups = {key: key[:2] for key in KEYS}
    by_photo = np.random.default_rng(0).normal(0, 1, 10)
    first = {key: float(by_photo[int(key[:2])]) for key in KEYS}
    second = dict.fromkeys(KEYS, 0.0)
    together = compare(first, second, groups, higher_is_better=True, margin=0)
    apart = compare(first, second, ALONE, higher_is_better=True, margin=0)
    assert together.difference == apart.difference
    assert together.low is not None
    assert apart.low is not None
    wider = (together.difference - together.low) / (apart.difference - apart.low)
    # Of ten photos Student's interval, with √(10 / 9) for the estimated deviation.
    assert wider == pytest.approx(np.sqrt(10) * 2.262 / 1.96 * np.sqrt(10 / 9), rel=0.1)


def test_one_photo_says_nothing_of_others() -> None:
    found = compare(
        scores(31), scores(30, 0.1), dict.fromkeys(KEYS, "a"), higher_is_better=True, margin=0.02
    )
    assert found.low is None
    assert found.verdict == "undecided"


@pytest.mark.parametrize("higher", [True, False])
def test_verdicts(higher: bool) -> None:
    better, worse = ("better", "worse") if higher else ("worse", "better")
    base = scores(30)
    assert verdict(scores(31, 0.5), base, higher=higher) == better
    assert verdict(scores(29, 0.5), base, higher=higher) == worse
    assert verdict(base, base, higher=higher) == "equal"
    assert verdict(scores(30.05, 0.01), base, higher=higher) == "equal"
    assert verdict(scores(30, 5), base, higher=higher) == "undecided"
    # Beyond doubt on one side, but by less than matters.
    assert verdict(scores(30.085, 0.1), base, higher=higher) == "undecided"


def test_win_rate_counts_ties_half_and_knows_which_way_is_better() -> None:
    first, second = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.0, "b": 2.0, "c": 4.0, "d": 9.0}
    groups = {key: key for key in second}
    found = compare(first, second, groups, higher_is_better=True, margin=0)
    assert (found.win_rate, found.num_images) == (0.5, 3)
    assert (found.worst[0], found.best[0]) == ("c", "a")
    found = compare(first, second, groups, higher_is_better=False, margin=0)
    assert (found.worst[0], found.best[0]) == ("a", "c")
    with pytest.raises(ValueError, match="no image has both scores"):
        compare({"a": 1.0}, {"b": 1.0}, groups, higher_is_better=True, margin=0)


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        (["better", "undecided", "equal"], "better"),
        (["worse", "undecided"], "worse"),
        (["better", "worse"], "trade-off"),
        (["equal", "equal"], "equal"),
        (["equal", "undecided"], "undecided"),
        ([], "undecided"),
    ],
)
def test_metrics_are_judged_together(verdicts: list[str], outcome: str) -> None:
    compared = {
        str(number): Comparison(0, 0, 0, 0, 0.5, 1, [], [], verdict)
        for number, verdict in enumerate(verdicts)
    }
    judgement = judge(compared)
    assert judgement.outcome == outcome
    assert judgement.better == [n for n, c in compared.items() if c.verdict == "better"]


@pytest.mark.parametrize("photos", [2, 5, 19, 20])
def test_equal_methods_are_seldom_told_apart(photos: int) -> None:
    """About five in a hundred intervals tell them apart at most, even with few photos."""
    generator, apart, rounds = np.random.default_rng(0), 0, 300
    for _ in range(rounds):
        values = {str(key): float(value) for key, value in enumerate(generator.normal(size=photos))}
        found = compare(
            values,
            dict.fromkeys(values, 0.0),
            {key: key for key in values},
            higher_is_better=True,
            margin=0,
        )
        assert found.low is not None
        assert found.high is not None
        apart += not found.low <= 0 <= found.high
    assert apart / rounds < 0.1
