"""The gate: decides whether a bundle may become champion, and says why."""

from dataclasses import dataclass

from pipelines.errors import listing
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import IMAGES, by_image, from_csv
from pipelines.evaluation.statistics import Comparison, compare, judge
from pipelines.models.bundle import Bundle
from pipelines.models.facts import BundleMetrics, MetricFacts


@dataclass(frozen=True)
class Decision:
    """The gate's answer. `reason` is for people; it is kept as a tag of the model version."""

    promote: bool
    reason: str


def decide(candidate: Bundle, champion: Bundle | None) -> Decision:
    """Compares two bundles image by image, by every metric with a reference that the champion was
    measured by (see `evaluation.statistics.judge`).

    The candidate is promoted if it is better by one metric and worse by none, or if no difference
    matters and no mean is behind. Only scores of the same images by the same protocol are compared.
    """
    if champion is None:
        return Decision(True, "there was no champion")
    new, old = _Evidence.of(candidate), _Evidence.of(champion)
    if obstacle := _obstacle(new, old):
        return Decision(
            False,
            f"{obstacle}, so the two cannot be compared: measure and export both on the same data "
            "with the same evaluate.metrics, or use register.promote=always",
        )
    compared = {label: _compare(new, old, label) for label in old.deciding_labels()}
    judgement = judge(compared)
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
        promote = all(comparison.gain >= 0 for comparison in compared.values())
    told = "; ".join(_tell(label, old.metrics.by[label], c) for label, c in compared.items())
    return Decision(promote, f"{reason}: {told}")


@dataclass(frozen=True)
class _Evidence:
    """A bundle's metrics, and the scores of every image; None where the bundle holds none."""

    metrics: BundleMetrics
    images: list[ImageResult] | None

    @classmethod
    def of(cls, bundle: Bundle) -> "_Evidence":
        path = bundle.path / IMAGES
        return cls(bundle.facts.metrics, from_csv(path) if path.is_file() else None)

    def deciding_labels(self) -> list[str]:
        """Returns the metrics with a reference: others cannot tell detail from invention."""
        return [label for label, facts in self.metrics.by.items() if facts.has_reference]

    def scores(self, label: str) -> dict[str, float]:
        """Returns the model's scores, by image."""
        assert self.images is not None
        return by_image(self.images, self.metrics.benchmark, self.metrics.reference, label)

    def groups(self) -> dict[str, str]:
        """Returns the photo that each image is a part of."""
        assert self.images is not None
        return {result.key: result.group for result in self.images}


def _obstacle(new: _Evidence, old: _Evidence) -> str | None:
    """Returns why the two cannot be compared; None if they can."""
    for evidence, name in ((old, "champion"), (new, "candidate")):
        if evidence.images is None:
            return f"the {name}'s bundle holds no {IMAGES}"
    if old.metrics.identity != new.metrics.identity:
        return "the champion was measured on other images, or with another degradation"
    for label in old.deciding_labels():
        if label not in new.metrics.by:
            return f"the champion was measured by {label}, too"
        if new.metrics.by[label].protocol != old.metrics.by[label].protocol:
            return f"the champion was measured by another protocol of {label}"
        theirs = old.scores(label).keys()
        if not theirs or theirs != new.scores(label).keys():
            return f"not the same images have a {label} in both bundles"
    return None


def _compare(new: _Evidence, old: _Evidence, label: str) -> Comparison:
    facts = old.metrics.by[label]
    return compare(
        new.scores(label),
        old.scores(label),
        old.groups(),
        higher_is_better=facts.higher_is_better,
        margin=facts.margin,
    )


def _tell(label: str, facts: MetricFacts, comparison: Comparison) -> str:
    def signed(value: float) -> str:
        return f"{value:+.{facts.digits + 1}f}"

    interval = "no interval, since all images are of one photo"
    if comparison.low is not None and comparison.high is not None:
        interval = f"95 % {signed(comparison.low)} … {signed(comparison.high)}"
    unit = f" {facts.unit}" if facts.unit else ""
    return (
        f"{label} {signed(comparison.difference)}{unit} ({interval}, better on "
        f"{comparison.win_rate:.0%} of {comparison.num_images} images)"
    )
