"""Chooses among models and their artifacts: the best quality within a budget of latency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from pipelines.errors import UserError, listing
from pipelines.models.facts import BundleMetrics, EdgeArtifact
from srmodels.latency import Latency

#: The label of PSNR-Y begins so; its border of pixels ends it.
_PSNR_Y = "psnr_y"


@dataclass(frozen=True)
class Point:
    """An artifact of a model: a point of a curve of quality over latency.

    Attributes:
        model: the model's reference.
        artifact: the name of its target.
        psnr_y: the model's PSNR-Y in PyTorch, dB, see `comparable_psnr_y`; 0 where no other model
            is beside it.
        loss: PSNR-Y that the artifact loses beside PyTorch, dB.
        latency: latency of one tile.
    """

    model: str
    artifact: str
    psnr_y: float
    loss: float
    latency: Latency

    @property
    def quality(self) -> float:
        """PSNR-Y that is left, dB."""
        return self.psnr_y - self.loss

    def __str__(self) -> str:
        scored = f", {self.quality:.2f} dB of PSNR-Y" if self.psnr_y else ""
        took = f"{self.latency.median_ms:g} ms per tile"
        return f"{self.model} as {self.artifact}, {took}, {self.loss:.3f} dB lost{scored}"


def points_of(model: str, edge: Mapping[str, EdgeArtifact], psnr_y: float) -> list[Point]:
    """Returns a point for each artifact of a model that was timed."""
    return [
        Point(model, name, psnr_y, artifact.quality.loss, artifact.latency)
        for name, artifact in edge.items()
        if artifact.latency is not None
    ]


def comparable_psnr_y(measured: Mapping[str, BundleMetrics]) -> dict[str, float]:
    """Returns the PSNR-Y of models, dB, each the mean over the benchmark sets that all of them were
    measured on.

    Args:
        measured: the means of each model, by its reference.

    Raises:
        UserError: there is no such set, or a model has no PSNR-Y.
    """
    found = {model: _psnr_y(model, metrics) for model, metrics in measured.items()}
    shared = set.intersection(*(set(scores) for scores in found.values()))
    if not shared:
        raise UserError(
            f"{listing(found, ' and ')} were not measured on the same images: run jobs/evaluate.py "
            "for each of export.candidates with the same benchmark."
        )
    return {model: mean(scores[key] for key in sorted(shared)) for model, scores in found.items()}


def best_within(budget_ms: float, points: Sequence[Point]) -> Point:
    """Returns the point of the highest quality whose latency is within the budget; of two that are
    equal, the faster one.

    Args:
        budget_ms: the largest median latency of one tile, ms.
        points: at least one.

    Raises:
        UserError: there is none; the message has the latency of each.
    """
    within = [point for point in points if point.latency.median_ms <= budget_ms]
    if within:
        return max(within, key=lambda point: (point.quality, -point.latency.median_ms))
    took = ", ".join(f"{p.latency.median_ms:g} ms by {p.model} as {p.artifact}" for p in points)
    latency = points[0].latency
    raise UserError(
        f"nothing is within export.latency_budget_ms={budget_ms:g}: a tile of {latency.size} px on "
        f"{latency.threads} threads takes {took}. Make a model narrower (docs/compression.md), "
        "take int8 or a smaller export.tile, or raise the budget."
    )


def too_slow(budget_ms: float | None, edge: Mapping[str, EdgeArtifact]) -> dict[str, str]:
    """Returns why artifacts are not within a budget, by name; without a budget all are. What was
    not timed is within any."""
    return {
        name: (
            f"{name} takes {latency.median_ms:g} ms for a tile of {latency.size} px on "
            f"{latency.threads} threads, more than export.latency_budget_ms={budget_ms:g}: take a "
            "narrower model or a lower precision, or raise the budget."
        )
        for name, artifact in edge.items()
        if budget_ms is not None
        and (latency := artifact.latency) is not None
        and latency.median_ms > budget_ms
    }


def _psnr_y(model: str, metrics: BundleMetrics) -> dict[tuple[str, str], float]:
    """Returns a model's mean PSNR-Y by the identity of each benchmark set and the label."""
    found = {
        (facts.identity, label): score
        for facts in metrics.benchmarks.values()
        for label, score in facts.model.items()
        if label.startswith(_PSNR_Y) and score is not None
    }
    if not found:
        raise UserError(
            f"{model} has no PSNR-Y, by which export.latency_budget_ms chooses: run "
            f"jobs/evaluate.py model={model} evaluate.metrics=auto."
        )
    return found
