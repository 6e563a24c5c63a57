"""The gate: whether a bundle may become champion, and why."""

from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.results import IMAGES, by_image, from_csv
from pipelines.evaluation.statistics import Comparison, compare, judge
from pipelines.registry.bundle import Bundle


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
    if obstacle := _obstacle(candidate, champion):
        return Decision(
            False,
            f"{obstacle}, so the two cannot be compared: measure and export both on the same data "
            "with the same evaluate.metrics, or use register.promote=always",
        )
    compared = {label: _compare(candidate, champion, label) for label in _labels(champion)}
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
    told = "; ".join(_tell(label, _metrics(champion)[label], c) for label, c in compared.items())
    return Decision(promote, f"{reason}: {told}")


def _obstacle(candidate: Bundle, champion: Bundle) -> str | None:
    """Why the two cannot be compared, if so."""
    for bundle, name in ((champion, "champion"), (candidate, "candidate")):
        if not (bundle.path / IMAGES).is_file():
            return f"the {name}'s bundle holds no {IMAGES}"
    old, new = champion.facts["metrics"], candidate.facts["metrics"]
    if old["identity"] != new["identity"]:
        return "the champion was measured on other images, or with another degradation"
    for label in _labels(champion):
        if label not in new["by"]:
            return f"the champion was measured by {label}, too"
        if new["by"][label]["protocol"] != old["by"][label]["protocol"]:
            return f"the champion was measured by another protocol of {label}"
        scores = [_scores(bundle, label) for bundle in (champion, candidate)]
        if not scores[0] or scores[0].keys() != scores[1].keys():
            return f"not the same images have a {label} in both bundles"
    return None


def _scores(bundle: Bundle, label: str) -> dict[str, float]:
    """Of the bundle's model, by image."""
    metrics = bundle.facts["metrics"]
    found = from_csv(bundle.path / IMAGES)
    return by_image(found, metrics["benchmark"], metrics["reference"], label)


def _metrics(bundle: Bundle) -> dict[str, Any]:
    by: dict[str, Any] = bundle.facts["metrics"]["by"]
    return by


def _labels(bundle: Bundle) -> list[str]:
    """What can decide: a metric without a reference cannot tell detail from invention."""
    return [label for label, facts in _metrics(bundle).items() if facts["has_reference"]]


def _compare(candidate: Bundle, champion: Bundle, label: str) -> Comparison:
    facts = _metrics(champion)[label]
    groups = {result.key: result.group for result in from_csv(champion.path / IMAGES)}
    return compare(
        _scores(candidate, label),
        _scores(champion, label),
        groups,
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
