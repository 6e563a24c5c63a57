"""The gate: decides whether a bundle may become champion, and says why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

from pipelines.config.schema import GateConfig
from pipelines.errors import listing
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.statistics import Comparison, compare, judge
from pipelines.models.facts import MetricFacts
from pipelines.registry.edge import judge_artifacts, tell_artifacts
from pipelines.registry.evidence import Contender, Evidence

#: A comparison and the facts of its metric, by title.
_Compared = Mapping[str, tuple[MetricFacts, Comparison]]


@dataclass(frozen=True)
class Decision:
    """The gate's answer.

    Attributes:
        reason: why, for people; it is kept as a tag of the model version.
        rival: the model that it was compared with, in words; None where none was.
        compared: the comparisons that decided.
        artifacts: a line for each artifact, beside the rival's.
        against: the version that was champion then; None if there was none.
    """

    promote: bool
    reason: str
    rival: str | None = None
    compared: _Compared = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    against: str | None = None


def decide(
    candidate: Contender,
    champion: Contender | None,
    settings: GateConfig,
    timed: Mapping[str, float] = MappingProxyType({}),
) -> Decision:
    """Compares two bundles image by image, on every benchmark set of the champion's evidence and by
    every metric with a reference in it (see `evaluation.statistics.judge`), and then their edge
    artifacts (see `judge_artifacts`).

    The candidate is promoted if it is better by one metric on one set and worse by none on any, or
    if no difference matters and no mean is behind; and if no artifact is worse beyond its
    tolerance. Only scores of the same images by the same protocol are compared. Without a champion
    it has to be better than bicubic.

    Args:
        timed: how much slower the candidate's artifacts are, see `time_beside`.
    """
    if champion is None:
        return _floor(candidate.evidence, settings)
    new, old = candidate.evidence, champion.evidence
    if obstacle := _obstacle(new, old):
        return Decision(
            False,
            f"{obstacle}, so the two cannot be compared: measure and export both on the same data "
            "with the same benchmark and evaluate.metrics, or use register.promote=always",
        )
    compared = _compare_all(new, old)
    outcome, verdict = _judge(compared)
    promote = outcome == "better"
    if outcome == "equal":
        promote = all(comparison.gain >= 0 for _, comparison in compared.values())
    gains = _sure_gains(old, compared)
    artifacts = judge_artifacts(candidate.facts, champion.facts, settings, gains, timed)
    if artifacts:
        promote, verdict = False, f"{listing(artifacts, '; ')}; its images: {verdict}"
    told = tell_artifacts(candidate.facts, champion.facts, timed)
    reason = f"{verdict}: {listing([*_tell_all(compared), *told], '; ')}"
    return Decision(promote, reason, "the champion", compared, tuple(told))


def _floor(evidence: Evidence, settings: GateConfig) -> Decision:
    """Decides about a model without a champion before it: it has to be better than bicubic."""
    if not settings.floor:
        return Decision(True, "there was no champion")
    compared = {}
    for title, name, label in _titles(evidence):
        ours, theirs = evidence.scores(name, label), evidence.scores_of_bicubic(name, label)
        if not ours or ours.keys() != theirs.keys():
            return Decision(False, f"not the same images have a {label} of bicubic, on {name}")
        facts, groups = evidence.metrics[label], evidence.groups(name)
        compared[title] = facts, _compare(ours, theirs, groups, facts)
    outcome, verdict = _judge(compared)
    figures = listing(_tell_all(compared), "; ")
    if outcome == "better":
        reason = f"the first model, and beside bicubic {verdict}: {figures}"
        return Decision(True, reason, BICUBIC, compared)
    reason = (
        "the first model has to be better than bicubic (register.promote=always overrules that), "
        f"and beside it: {verdict}: {figures}"
    )
    return Decision(False, reason, BICUBIC, compared)


def _judge(compared: _Compared) -> tuple[str, str]:
    """Returns the outcome of comparisons (see `Judgement`), and the words for it."""
    judgement = judge({title: found for title, (_, found) in compared.items()})
    better, worse = listing(judgement.better, " and "), listing(judgement.worse, " and ")
    return judgement.outcome, {
        "better": f"better by {better}, worse by none",
        "worse": f"worse by {worse}, better by none",
        "trade-off": f"better by {better}, but worse by {worse} "
        "(register.promote=always, if that is what you want)",
        "equal": "no difference that matters",
        "undecided": "these images cannot tell which one is better (measure on more of them, or "
        "use register.promote=always)",
    }[judgement.outcome]


def _obstacle(new: Evidence, old: Evidence) -> str | None:
    """Returns why the two cannot be compared; None if they can."""
    for label in old.deciding_labels():
        if label not in new.metrics:
            return f"the champion was measured by {label}, too"
        if new.metrics[label].protocol != old.metrics[label].protocol:
            return f"the champion was measured by another protocol of {label}"
    return next(filter(None, (_obstacle_on(new, old, name) for name in old.sets)), None)


def _obstacle_on(new: Evidence, old: Evidence, benchmark: str) -> str | None:
    """Returns why the two cannot be compared on a set of the champion; None if they can."""
    ours = new.find(old.sets[benchmark])
    if ours is None and benchmark not in new.sets:
        return f"the champion was measured on {benchmark}, too"
    if ours is None:
        return (
            "the champion was measured on other images, or with another degradation, under the "
            f"name {benchmark}"
        )
    for label in old.deciding_labels():
        theirs = old.scores(benchmark, label).keys()
        if not theirs or theirs != new.scores(ours, label).keys():
            return f"not the same images have a {label} in both bundles, on {benchmark}"
    return None


def _compare_all(new: Evidence, old: Evidence) -> dict[str, tuple[MetricFacts, Comparison]]:
    """Returns a comparison for each set and each deciding metric, by title, with the metric's
    facts."""
    compared = {}
    for title, name, label in _titles(old):
        ours, facts = new.find(old.sets[name]), old.metrics[label]
        assert ours is not None
        scores = new.scores(ours, label), old.scores(name, label)
        compared[title] = facts, _compare(*scores, old.groups(name), facts)
    return compared


def _sure_gains(evidence: Evidence, compared: _Compared) -> dict[str, float]:
    """Returns, by metric label, the gain of the candidate at the low end of its interval, on the
    set where it is least; 0 where it is not known."""
    gains: dict[str, float] = {}
    for title, _, label in _titles(evidence):
        facts, found = compared[title]
        low = found.low if facts.higher_is_better else found.high
        gain = 0.0 if low is None else low if facts.higher_is_better else -low
        gains[label] = min(gains.get(label, gain), gain)
    return gains


def _titles(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Returns (title, set, metric) of each comparison."""
    several = len(evidence.sets) > 1
    return [
        (label + f" on {name}" * several, name, label)
        for name, label in product(evidence.sets, evidence.deciding_labels())
    ]


def _compare(
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    groups: Mapping[str, str],
    facts: MetricFacts,
) -> Comparison:
    return compare(
        ours, theirs, groups, higher_is_better=facts.higher_is_better, margin=facts.margin
    )


def _tell_all(compared: _Compared) -> list[str]:
    return [_tell(title, facts, found) for title, (facts, found) in compared.items()]


def _tell(title: str, facts: MetricFacts, comparison: Comparison) -> str:
    def signed(value: float) -> str:
        return f"{value:+.{facts.digits + 1}f}"

    interval = "no interval, since all images are of one photo"
    if comparison.low is not None and comparison.high is not None:
        interval = f"95 % {signed(comparison.low)} … {signed(comparison.high)}"
    unit = f" {facts.unit}" if facts.unit else ""
    return (
        f"{title} {signed(comparison.difference)}{unit} ({interval}, better on "
        f"{comparison.win_rate:.0%} of {comparison.num_images} images)"
    )
