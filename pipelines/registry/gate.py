"""The gate: decides whether a bundle may become champion, and says why."""

from dataclasses import dataclass
from itertools import product

from pipelines.errors import listing
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import by_image, from_csv
from pipelines.evaluation.statistics import Comparison, compare, judge
from pipelines.models.bundle import IMAGES, Bundle
from pipelines.models.facts import BundleMetrics, MetricFacts


@dataclass(frozen=True)
class Decision:
    """The gate's answer. `reason` is for people; it is kept as a tag of the model version."""

    promote: bool
    reason: str


def decide(candidate: Bundle, champion: Bundle | None) -> Decision:
    """Compares two bundles image by image, on every benchmark set and by every metric with a
    reference that the champion was measured with (see `evaluation.statistics.judge`).

    The candidate is promoted if it is better by one metric on one set and worse by none on any, or
    if no difference matters and no mean is behind. Only scores of the same images by the same
    protocol are compared.
    """
    if champion is None:
        return Decision(True, "there was no champion")
    new, old = _Evidence.of(candidate), _Evidence.of(champion)
    if obstacle := _obstacle(new, old):
        return Decision(
            False,
            f"{obstacle}, so the two cannot be compared: measure and export both on the same data "
            "with the same benchmark and evaluate.metrics, or use register.promote=always",
        )
    compared = _compare_all(new, old)
    judgement = judge({title: found for title, (_, found) in compared.items()})
    better, worse = listing(judgement.better, " and "), listing(judgement.worse, " and ")
    reason = {
        "better": f"better by {better}, worse by none",
        "worse": f"worse by {worse}, better by none",
        "trade-off": f"better by {better}, but worse by {worse} "
        "(register.promote=always, if that is what you want)",
        "equal": "no difference that matters",
        "undecided": "these images cannot tell which one is better (measure on more of them, or "
        "use register.promote=always)",
    }[judgement.outcome]
    promote = judgement.outcome == "better"
    if judgement.outcome == "equal":
        promote = all(comparison.gain >= 0 for _, comparison in compared.values())
    told = "; ".join(_tell(title, facts, found) for title, (facts, found) in compared.items())
    return Decision(promote, f"{reason}: {told}")


@dataclass(frozen=True)
class _Evidence:
    """A bundle's metrics, and the scores of every image."""

    metrics: BundleMetrics
    images: list[ImageResult]

    @classmethod
    def of(cls, bundle: Bundle) -> "_Evidence":
        return cls(bundle.facts.metrics, from_csv(bundle.path / IMAGES))

    def deciding_labels(self) -> list[str]:
        """Returns the metrics with a reference: others cannot tell detail from invention."""
        return [label for label, facts in self.metrics.by.items() if facts.has_reference]

    def find(self, identity: str) -> str | None:
        """Returns the name of the set with these images; None where it was not measured."""
        found = self.metrics.benchmarks.items()
        return next((name for name, facts in found if facts.identity == identity), None)

    def scores(self, benchmark: str, label: str) -> dict[str, float]:
        """Returns the model's scores on a set, by image."""
        return by_image(self.images, benchmark, self.metrics.reference, label)

    def groups(self, benchmark: str) -> dict[str, str]:
        """Returns the photo that each image of a set is a part of."""
        return {found.key: found.group for found in self.images if found.benchmark == benchmark}


def _obstacle(new: _Evidence, old: _Evidence) -> str | None:
    """Returns why the two cannot be compared; None if they can."""
    for label in old.deciding_labels():
        if label not in new.metrics.by:
            return f"the champion was measured by {label}, too"
        if new.metrics.by[label].protocol != old.metrics.by[label].protocol:
            return f"the champion was measured by another protocol of {label}"
    return next(filter(None, (_obstacle_on(new, old, n) for n in old.metrics.benchmarks)), None)


def _obstacle_on(new: _Evidence, old: _Evidence, benchmark: str) -> str | None:
    """Returns why the two cannot be compared on a set of the champion; None if they can."""
    ours = new.find(old.metrics.benchmarks[benchmark].identity)
    if ours is None and benchmark not in new.metrics.benchmarks:
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


def _compare_all(new: _Evidence, old: _Evidence) -> dict[str, tuple[MetricFacts, Comparison]]:
    """Returns a comparison for each set and each deciding metric, by title, with the metric's
    facts."""
    several = len(old.metrics.benchmarks) > 1
    return {
        label + f" on {name}" * several: (old.metrics.by[label], _compare(new, old, name, label))
        for name, label in product(old.metrics.benchmarks, old.deciding_labels())
    }


def _compare(new: _Evidence, old: _Evidence, benchmark: str, label: str) -> Comparison:
    facts = old.metrics.by[label]
    ours = new.find(old.metrics.benchmarks[benchmark].identity)
    assert ours is not None
    return compare(
        new.scores(ours, label),
        old.scores(benchmark, label),
        old.groups(benchmark),
        higher_is_better=facts.higher_is_better,
        margin=facts.margin,
    )


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
