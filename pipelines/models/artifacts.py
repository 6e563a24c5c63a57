"""Runs a bundle's edge artifacts in place of its network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.errors import UserError, listing
from pipelines.models.load import Model
from srmodels.edge.target import RUNTIMES, make_target


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    Attributes:
        tile: side of the LR tiles that it is given, pixels.
        run: maps LR tiles `[B, 3, tile, tile]` to HR tiles, both in [0, 1].
    """

    tile: int
    run: Callable[[Tensor], Tensor]


def load_artifact(model: Model, runtime: str, precision: str, threads: int = 0) -> Artifact:
    """Loads a model's artifact for a runtime.

    Args:
        runtime: a name in `RUNTIMES`.
        precision: fp32, fp16 or int8.
        threads: number of threads that it may use; 0: the runtime decides.

    Raises:
        UserError: the model's bundle has no such artifact, or the model is a run.
    """
    name = f"{RUNTIMES[runtime]}_{precision}"
    edge = model.bundle.facts.edge if model.bundle else {}
    if model.bundle is None or name not in edge:
        there = f"it has {listing(edge)}" if edge else "it has none"
        raise UserError(
            f"{model.reference} has no artifact {name} ({there}): make it with jobs/export.py "
            f"model={model.reference} 'export.artifacts=[{name}]'."
        )
    found = edge[name]
    runner = make_target(name).load(model.bundle.path / found.file, threads)

    def run(x_l: Tensor) -> Tensor:
        # The graph takes one tile at a time.
        return torch.cat([runner.run(tile) for tile in x_l.split(1)])

    return Artifact(found.input.shape[-1] or model.bundle.facts.tile, run)
