"""Judges the edge artifacts of a candidate beside the champion's: latency, size and quality."""

from collections.abc import Mapping

from pipelines.config.schema import GateConfig
from pipelines.errors import listing
from pipelines.models.facts import BundleFacts, EdgeArtifact, QualityLoss
from srmodels.metrics.suite import METRICS


def judge_artifacts(
    new: BundleFacts,
    old: BundleFacts,
    settings: GateConfig,
    gains: Mapping[str, float],
    timed: Mapping[str, float],
) -> list[str]:
    """Returns, in words, what is worse beyond the tolerances about the artifacts of a candidate.

    Args:
        new, old: the facts of the candidate and of the champion.
        gains: what the candidate's model is surely better by, by metric label; an artifact may lose
            as much more and is still no worse than the champion's.
        timed: how much slower an artifact is than the champion's, see `time_beside`; what was not
            timed is judged by what the exports measured.
    """
    found = []
    for target in old.edge:
        if target in new.edge:
            found += _costlier(target, new, old, settings, timed)
            found += _worse(new.edge[target], old.edge[target], target, settings, gains)
        elif not settings.allow_missing:
            why = f" ({new.left_out[target].rstrip('.')})" if target in new.left_out else ""
            found.append(f"it lacks {target}, which the champion has{why}")
    return found


def tell_artifacts(new: BundleFacts, old: BundleFacts, timed: Mapping[str, float]) -> list[str]:
    """Returns the figures of each artifact that both have, beside the champion's."""
    found = []
    for target in old.edge:
        if target in new.edge:
            slower, larger = _slower(target, new, old, timed), _larger(target, new, old)
            time = "not timed" if slower is None else f"{slower:+.0%} time"
            losses = [
                f"{ours.loss:.4f} ({theirs.loss:.4f}) {ours.metric} lost"
                for ours, theirs in _losses(new.edge[target], old.edge[target])
            ]
            found.append(f"{target} {time}, {larger:+.0%} size, {listing(losses)}")
    return found


def _costlier(
    target: str,
    new: BundleFacts,
    old: BundleFacts,
    settings: GateConfig,
    timed: Mapping[str, float],
) -> list[str]:
    found = []
    slower, larger = _slower(target, new, old, timed), _larger(target, new, old)
    if slower is not None and slower > settings.max_slowdown:
        found.append(
            f"{target} is {slower:.0%} slower (gate.max_slowdown={settings.max_slowdown:g})"
        )
    if larger > settings.max_growth:
        found.append(f"{target} is {larger:.0%} larger (gate.max_growth={settings.max_growth:g})")
    return found


def _worse(
    new: EdgeArtifact,
    old: EdgeArtifact,
    target: str,
    settings: GateConfig,
    gains: Mapping[str, float],
) -> list[str]:
    found = []
    for ours, theirs in _losses(new, old):
        allowed = theirs.loss + settings.max_extra_loss * _margin(ours.metric)
        allowed += max(0.0, gains.get(ours.metric, 0.0))
        # For other photos, too: not where the interval holds a loss that is good enough.
        sure = ours.loss if ours.low is None else ours.low
        if not sure <= allowed:  # NaN is no small loss
            interval = "" if ours.low is None else f", 95 % {ours.low:.4f} … {ours.high:.4f}"
            found.append(
                f"{target} loses {ours.loss:.4f} of {ours.metric} beside PyTorch{interval}, the "
                f"champion's {theirs.loss:.4f} (gate.max_extra_loss={settings.max_extra_loss:g})"
            )
    return found


def _slower(
    target: str, new: BundleFacts, old: BundleFacts, timed: Mapping[str, float]
) -> float | None:
    """Returns how much slower an artifact is, as a share; None where one of both was not timed.

    Milliseconds of two days and machines tell nothing. So without a timing by turns an artifact's
    time is its ratio to PyTorch's, and PyTorch's counts as the multiply-adds per LR pixel.
    """
    if target in timed:
        return timed[target]
    times = []
    for facts in (new, old):
        ratio, per_pixel = facts.edge[target].latency_ratio, facts.gmacs / facts.tile**2
        if ratio is None:
            return None
        times.append(ratio * per_pixel if new.gmacs and old.gmacs else ratio)
    return round(times[0] / times[1] - 1, 6) if times[1] else 0.0


def _larger(target: str, new: BundleFacts, old: BundleFacts) -> float:
    """Returns how much larger the files of an artifact are, as a share."""
    ours, theirs = (sum(f.bytes for f in facts.files_of(target)) for facts in (new, old))
    return round(ours / theirs - 1, 6) if theirs else 0.0


def _losses(new: EdgeArtifact, old: EdgeArtifact) -> list[tuple[QualityLoss, QualityLoss]]:
    """Returns what two artifacts lose, by each metric that judged both."""
    theirs = {found.metric: found for found in (old.quality, *old.other_losses)}
    ours = (new.quality, *new.other_losses)
    return [(found, theirs[found.metric]) for found in ours if found.metric in theirs]


def _margin(label: str) -> float:
    """Returns a difference of the metric that matters to nobody."""
    name = label.partition("_crop")[0]
    return METRICS[name].margin
