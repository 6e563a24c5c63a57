"""The gate: whether a bundle may become champion, and why."""

from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import IMAGES, by_image, from_csv
from pipelines.evaluation.statistics import Comparison, compare, judge
from pipelines.models.bundle import Bundle


@dataclass(frozen=True)
class Decision:
    """`reason` is a sentence for people; it is kept as a tag of the model version."""

    promote: bool
    reason: str


def decide(candidate: Bundle, champion: Bundle | None) -> Decision:
    """Compares two bundles image by image, by every metric with a reference that the champion was
    measured by (see `evaluation.statistics.judge`): the candidate has to be better by one and worse
    by none, or no different and by no mean behind.

    Only measurements of the same images by the same protocol are compared.
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
    compared = {label: _compare(new, old, label) for label in old.labels()}
    judgement = judge(compared)
    reason = {
        "better": f"better by {_listing(judgement.better)}, worse by none",
        "worse": f"worse by {_listing(judgement.worse)}, better by none",
        "trade-off": f"better by {_listing(judgement.better)}, but worse by "
        f"{_listing(judgement.worse)} (register.promote=always, if that is what you want)",
        "equal": "no difference that matters",
        "undecided": "these images cannot tell which one is better (measure on more of them, or "
        "use register.promote=always)",
    }[judgement.outcome]
    promote = judgement.outcome == "better"
    if judgement.outcome == "equal":
        promote = all(comparison.gain >= 0 for comparison in compared.values())
    told = "; ".join(_tell(label, old.by[label], c) for label, c in compared.items())
    return Decision(promote, f"{reason}: {told}")


@dataclass(frozen=True)
class _Evidence:
    """What a bundle says of its model: `metrics` of bundle.json, and every image's scores, None
    where it holds none."""

    metrics: dict[str, Any]
    images: list[ImageResult] | None

    @classmethod
    def of(cls, bundle: Bundle) -> "_Evidence":
        path = bundle.path / IMAGES
        return cls(bundle.facts["metrics"], from_csv(path) if path.is_file() else None)

    @property
    def by(self) -> dict[str, Any]:
        """Facts by metric."""
        by: dict[str, Any] = self.metrics["by"]
        return by

    def labels(self) -> list[str]:
        """What can decide: a metric without a reference cannot tell detail from invention."""
        return [label for label, facts in self.by.items() if facts["has_reference"]]

    def scores(self, label: str) -> dict[str, float]:
        """Of the model, by image."""
        assert self.images is not None
        return by_image(self.images, self.metrics["benchmark"], self.metrics["reference"], label)

    def groups(self) -> dict[str, str]:
        """What photo each image is of."""
        assert self.images is not None
        return {result.key: result.group for result in self.images}


def _obstacle(new: _Evidence, old: _Evidence) -> str | None:
    """Why the two cannot be compared, if so."""
    for evidence, name in ((old, "champion"), (new, "candidate")):
        if evidence.images is None:
            return f"the {name}'s bundle holds no {IMAGES}"
    if old.metrics["identity"] != new.metrics["identity"]:
        return "the champion was measured on other images, or with another degradation"
    for label in old.labels():
        if label not in new.by:
            return f"the champion was measured by {label}, too"
        if new.by[label]["protocol"] != old.by[label]["protocol"]:
            return f"the champion was measured by another protocol of {label}"
        theirs = old.scores(label).keys()
        if not theirs or theirs != new.scores(label).keys():
            return f"not the same images have a {label} in both bundles"
    return None


def _compare(new: _Evidence, old: _Evidence, label: str) -> Comparison:
    facts = old.by[label]
    return compare(
        new.scores(label),
        old.scores(label),
        old.groups(),
        higher_is_better=facts["higher_is_better"],
        margin=facts["margin"],
    )


def _listing(labels: list[str]) -> str:
    return " and ".join(labels)


def _tell(label: str, facts: dict[str, Any], comparison: Comparison) -> str:
    def signed(value: float) -> str:
        return f"{value:+.{facts['digits'] + 1}f}"

    interval = "no interval, since all images are of one photo"
    if comparison.low is not None and comparison.high is not None:
        interval = f"95 % {signed(comparison.low)} … {signed(comparison.high)}"
    unit = f" {facts['unit']}" if facts["unit"] else ""
    return (
        f"{label} {signed(comparison.difference)}{unit} ({interval}, better on "
        f"{comparison.win_rate:.0%} of {comparison.num_images} images)"
    )
