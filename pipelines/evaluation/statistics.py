"""Paired statistics: decides whether one method is better than another on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 9999
#: Fewest groups for which the interval of a percentile bootstrap is wide enough.
_ENOUGH = 20
#: Images that a comparison names at either end.
_NUM_SHOWN = 5


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: scores of the first method minus those of the second, by image.

    Attributes:
        difference: the mean over the images.
        low, high: 95 % interval of that mean for other images of the same kind. None where all
            images are parts of one photo, which says nothing of other photos.
        gain: the difference with its sign turned where less is better: more is better.
        win_rate: share of images on which the first is better; ties count half.
        worst, best: keys of the images on which the first does worst, and best, beside the second.
        verdict: `better` or `worse` where the interval is on one side of zero and the difference
            larger than the metric's margin; `equal` where the interval lies within the margin; else
            `undecided`.
    """

    difference: float
    low: float | None
    high: float | None
    gain: float
    win_rate: float
    num_images: int
    worst: list[str]
    best: list[str]
    verdict: str


@dataclass(frozen=True)
class Judgement:
    """The verdicts of several metrics as one outcome.

    Attributes:
        outcome: `better` if some metrics are better and none is worse; `worse` the other way
            round; `trade-off` if some are better and some worse; `equal` if all are; else
            `undecided`.
        better, worse: labels of those metrics.
    """

    outcome: str
    better: list[str]
    worse: list[str]


def judge(compared: Mapping[str, Comparison]) -> Judgement:
    """Returns one judgement of the comparisons, which are given by metric."""
    better, worse = (
        [label for label, comparison in compared.items() if comparison.verdict == verdict]
        for verdict in ("better", "worse")
    )
    if better and worse:
        outcome = "trade-off"
    elif better or worse:
        outcome = "better" if better else "worse"
    else:
        equal = compared and all(c.verdict == "equal" for c in compared.values())
        outcome = "equal" if equal else "undecided"
    return Judgement(outcome, better, worse)


def compare(
    first: Mapping[str, float],
    second: Mapping[str, float],
    groups: Mapping[str, str],
    *,
    higher_is_better: bool,
    margin: float,
) -> Comparison:
    """Compares scores by image.

    The interval is a percentile bootstrap over groups, since tiles of one photo are not
    independent. For fewer than 20 groups a bootstrap is far too narrow: there it is Student's.

    Args:
        first, second: score by image; the images that both have count.
        groups: the photo that each image is a part of, see `Benchmark.group`.
        margin: a difference that does not matter, see `Metric`.

    Raises:
        ValueError: no image has both scores.
    """
    keys = sorted(first.keys() & second.keys())
    if not keys:
        raise ValueError("no image has both scores.")
    differences = np.array([first[key] - second[key] for key in keys])
    gains = differences if higher_is_better else -differences
    difference = float(differences.mean())
    low, high = _interval(differences, [groups[key] for key in keys])
    gain = difference if higher_is_better else -difference
    ranked = [keys[place] for place in np.argsort(gains, kind="stable")]
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        gain=gain,
        win_rate=float(np.mean((np.sign(gains) + 1) / 2)),
        num_images=len(keys),
        worst=ranked[:_NUM_SHOWN],
        best=ranked[::-1][:_NUM_SHOWN],
        verdict=_verdict(gain, low, high, margin),
    )


def _verdict(gain: float, low: float | None, high: float | None, margin: float) -> str:
    if low is None or high is None:
        return "undecided"
    if -margin <= low and high <= margin:
        return "equal"
    if low <= 0 <= high or abs(gain) <= margin:
        return "undecided"
    return "better" if gain > 0 else "worse"


def _interval(differences: np.ndarray, groups: list[str]) -> tuple[float | None, float | None]:
    if not differences.any():
        return 0.0, 0.0
    names, place = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None, None
    sums, counts = np.bincount(place, differences), np.bincount(place)
    if len(names) < _ENOUGH:
        return _students(sums, counts)
    from scipy.stats import bootstrap  # takes a second to import

    found = bootstrap(
        (sums, counts),
        lambda s, c, axis: s.sum(axis) / c.sum(axis),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _students(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Returns Student's interval of a mean over clusters, Σ sums / Σ counts, with its linearised
    standard error (Cochran, "Sampling Techniques", section 6.4)."""
    from scipy.special import stdtrit  # takes a fifth of a second to import

    groups, mean = len(sums), sums.sum() / counts.sum()
    errors = sums - mean * counts
    deviation = np.sqrt(groups / (groups - 1) * np.square(errors).sum()) / counts.sum()
    half = stdtrit(groups - 1, (1 + CONFIDENCE) / 2) * deviation
    return float(mean - half), float(mean + half)
