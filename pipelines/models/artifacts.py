"""Runs a bundle's edge artifacts in place of its network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipelines.errors import UserError, listing
from pipelines.models.load import Model
from srmodels.edge.target import (
    PRECISIONS,
    RUNTIMES,
    TARGETS,
    EdgeTarget,
    make_target,
    run_checked,
)
from srmodels.tiling import Tiling


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    Attributes:
        tiling: how images are cut for it.
        run: maps LR tiles `[B, 3, h, w]` to HR tiles, both in [0, 1].
    """

    tiling: Tiling
    run: Callable[[Tensor], Tensor]


def load_artifact(
    model: Model, runtime: str, precision: str | None = None, threads: int = 0
) -> Artifact:
    """Loads a model's artifact for a runtime.

    Args:
        runtime: a name in `RUNTIMES`.
        precision: one of `PRECISIONS`; None: the highest that the bundle has for the runtime.
        threads: number of threads that it may use; 0: the runtime decides.

    Raises:
        UserError: the model's bundle has no such artifact, the model is a run, or the runtime is
            not installed.
    """
    edge = model.bundle.facts.edge if model.bundle else {}
    known = {p: n for p in PRECISIONS if (n := f"{RUNTIMES[runtime]}_{p}") in TARGETS}
    if precision is not None and precision not in known:
        raise UserError(f"{runtime} runs no artifact in {precision}: use {listing(known)}.")
    names = list(known.values()) if precision is None else [known[precision]]
    name = next((name for name in names if name in edge), None)
    if model.bundle is None or name is None:
        there = f"it has {listing(edge)}" if edge else "it has none"
        raise UserError(
            f"{model.reference} has no artifact {names[0]} ({there}): make it with jobs/export.py "
            f"model={model.reference} 'export.artifacts=[{names[0]}]'."
        )
    found, scale = edge[name], model.bundle.facts.scale
    return Artifact(
        found.tiling, open_artifact(name, model.bundle.path / found.file, scale, threads)
    )


def open_artifact(
    target: str, path: Path, scale: int, threads: int = 0
) -> Callable[[Tensor], Tensor]:
    """Loads an artifact, and returns what maps LR tiles `[B, 3, h, w]` to HR tiles, both in [0, 1].

    Raises:
        UserError: the runtime is not installed, or the file is no artifact of the target. What is
            returned raises it where the artifact fails or makes something else.
    """
    known = find_target(target)
    try:
        runner = known.load(path, threads)
    except ValueError as error:
        raise UserError(f"{error}: export it again.") from None

    def run(x_l: Tensor) -> Tensor:
        try:
            return run_checked(runner, x_l, scale)
        except ValueError as error:
            raise UserError(f"{path} {error}: export it again.") from None

    return run


def find_target(name: str) -> EdgeTarget:
    """Returns the edge target called `name`.

    Raises:
        UserError: there is none, or its packages are not installed.
    """
    try:
        return make_target(name)
    except ValueError as error:
        raise UserError(str(error)) from None
