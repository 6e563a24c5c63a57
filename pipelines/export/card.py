"""MODEL_CARD.md: a bundle's facts, for people."""

from pipelines.models.bundle import IMAGES
from pipelines.models.facts import BenchmarkFacts, BundleFacts, EdgeArtifact, MetricFacts


def model_card(description: str, degradation: str, facts: BundleFacts, best: str = "") -> str:
    """Returns the card as Markdown.

    Args:
        description: the description of the recipe, in one line.
        degradation: the name of the degradation that the model was trained with.
        best: the best artifact within a budget of latency, where there is a budget.
    """
    metrics, edge = facts.metrics, facts.edge.values()
    measured = (_measured(name, found, metrics.by) for name, found in metrics.benchmarks.items())
    return f"""# {facts.name}

{description}. ×{facts.scale} super-resolution.

- {facts.parameters / 1e6:.2f} M parameters
- {facts.gmacs:.2f} GMACs = {2 * facts.gmacs:.2f} GFLOPs for an LR tile of {facts.tile} px

## Use
`srmill upscale IN OUT --model FOLDER`, with the folder that this file lies in.
{"".join(map(_artifact_use, edge))}
## Measured
Every image's scores are in `{IMAGES}`.
{"".join(measured)}{"".join(map(_artifact_evidence, edge))}{_left_out(facts.left_out)}{_best(best)}
## Trained on
- dataset `{facts.manifest}`
- recipe `{facts.recipe}`, configuration `{facts.config_digest}`
- commit `{facts.git_commit}`

## Limits
Trained for {degradation} degradation. It cannot know what the LR image does not show:
check results before they are used as evidence of anything.
"""


def _left_out(reasons: dict[str, str]) -> str:
    return "".join(f"\nLeft out: {reason}\n" for reason in reasons.values())


def _best(best: str) -> str:
    return f"\nThe best {best}.\n" if best else ""


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _measured(name: str, found: BenchmarkFacts, by: dict[str, MetricFacts]) -> str:
    rows = "\n".join(
        f"| {label} | {_shown(found.bicubic[label])} | {_shown(score)} | {by[label].protocol} |"
        for label, score in found.model.items()
    )
    return f"""
On {found.num_images} images of {name}, LR: {found.degradation}.

| metric | bicubic | this model | protocol |
|---|---|---|---|
{rows}
"""


def _artifact_use(artifact: EdgeArtifact) -> str:
    x_l, x_h = artifact.input, artifact.output
    package = artifact.file.partition(".mlpackage/")
    names = [f"{package[0]}.mlpackage"] if package[1] else [artifact.file, *artifact.others]
    listed = ", ".join(f"`{name}`" for name in names)
    return f"""
{listed}: input `{x_l.name}` {list(x_l.shape)}, RGB in [0, 1]; output `{x_h.name}`
{list(x_h.shape)}. Larger images: cut tiles that overlap by a quarter and blend.
"""


def _artifact_evidence(artifact: EdgeArtifact) -> str:
    parity, quality = artifact.parity, artifact.quality
    interval = "" if quality.low is None else f" (95 %: {quality.low:.3f} … {quality.high:.3f})"
    made = "; ".join(f"{name} {value}" for name, value in artifact.made.items())
    others = "".join(f", {other.loss:.4f} of {other.metric}" for other in artifact.other_losses)
    return f"""
`{artifact.file}` against PyTorch on {parity.num_images} real images: largest error
{parity.max_error:.1e}, {parity.sqnr_db} dB. It loses {quality.loss:.3f} dB{interval} of
{quality.metric}{others} on {quality.num_images} {quality.images}. {_time(artifact)}
Made by {made}.
"""


def _time(artifact: EdgeArtifact) -> str:
    latency = artifact.latency
    if latency is None:
        return "Only a simulator ran it,\nso it has no latency."
    return f"""Latency
{latency.median_ms} ms per tile (median of {latency.runs},
{latency.threads} threads, {artifact.machine}), {artifact.latency_ratio:.2f} of PyTorch's."""
