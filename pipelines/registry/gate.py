"""The gate: whether a bundle may become champion, and why."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """`reason` is a sentence for people; it is kept as a tag of the model version."""

    promote: bool
    reason: str


def decide(candidate: dict[str, Any], champion: dict[str, Any] | None) -> Decision:
    """Compares the `metrics` of two bundles by mean PSNR on Y.

    Only measurements of the same images by the same protocol are compared. (A paired comparison
    per image takes this function's place once evaluation keeps more than means in the bundle.)

    Args:
        candidate: `metrics` of the new bundle's `bundle.json`.
        champion: those of the champion, None if there is no champion.
    """
    if champion is None:
        return Decision(True, "there was no champion")
    for fact in ("manifest", "degradation", "protocol"):
        if candidate[fact] != champion[fact]:
            return Decision(
                False,
                f"the champion was measured with another {fact}, so the two cannot be compared: "
                "measure and export both on the same data, or use register.promote=always",
            )
    metric = next(name for name in candidate["model"] if name.startswith("psnr"))
    new, old = candidate["model"][metric], champion["model"][metric]
    verdict = f"{metric} {new:.3f} against the champion's {old:.3f} dB"
    return Decision(new >= old, verdict)
