"""MODEL_CARD.md: what a bundle says of itself to people."""

from typing import Any

from pipelines.config.schema import Config
from pipelines.evaluation.results import IMAGES


def model_card(config: Config, facts: dict[str, Any]) -> str:
    metrics = facts["metrics"]
    rows = "\n".join(
        f"| {label} | {_shown(metrics['bicubic'][label])} | {_shown(value)} | "
        f"{metrics['by'][label]['protocol']} |"
        for label, value in metrics["model"].items()
    )
    return f"""# {facts["name"]}

{config.description}. ×{facts["scale"]} super-resolution.

- {facts["parameters"] / 1e6:.2f} M parameters
- {facts["gmacs"]:.2f} GMACs = {2 * facts["gmacs"]:.2f} GFLOPs for an LR tile of {facts["tile"]} px

## Use
`srmill upscale IN OUT --model FOLDER`, with the folder that this file lies in.
{"".join(_artifact_use(edge) for edge in facts["edge"].values())}
## Measured
On {metrics["num_images"]} images of {metrics["benchmark"]}, LR: {metrics["degradation"]}. Every
image's scores are in `{IMAGES}`.

| metric | bicubic | this model | protocol |
|---|---|---|---|
{rows}
{"".join(_artifact_evidence(edge) for edge in facts["edge"].values())}
## Trained on
- dataset `{facts["manifest"]}`
- recipe `{facts["recipe"]}`, configuration `{facts["config_digest"]}`
- commit `{facts["git_commit"]}`

## Limits
Trained for {metrics["degradation"]} degradation. It cannot know what the LR image does not show:
check results before they are used as evidence of anything.
"""


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _artifact_use(edge: dict[str, Any]) -> str:
    return f"""
`{edge["file"]}`: input `x_l` {edge["input"]["shape"]}, RGB in [0, 1]; output `x_h`
{edge["output"]["shape"]}. Larger images: cut tiles that overlap by a quarter and blend.
"""


def _artifact_evidence(edge: dict[str, Any]) -> str:
    return f"""
`{edge["file"]}` against PyTorch on {edge["parity"]["num_images"]} real images: largest error
{edge["parity"]["max_error"]:.1e}, {edge["parity"]["sqnr_db"]} dB. Latency
{edge["latency"]["median_ms"]} ms per tile (median of {edge["latency"]["runs"]},
{edge["latency"]["threads"]} threads, {edge["latency"]["machine"]}).
"""
