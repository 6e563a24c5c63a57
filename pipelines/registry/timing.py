"""Times the artifacts of two bundles by turns on this machine, as no two exports were."""

import math

import torch
from torch import Tensor

from pipelines.models.bundle import Bundle
from pipelines.models.facts import EdgeArtifact
from srmodels.edge.target import Runner, make_target
from srmodels.latency import num_threads, time_by_turns

#: Side of the tile for an artifact that takes any size, LR pixels, before its multiple.
_SIDE = 128
_WARM_UP = 3
#: Short runs are repeated until they have taken so long, milliseconds, but no more often than that:
#: of a few, all may have met a pause of a busy machine.
_LEAST_MS, _MOST_RUNS = 1000.0, 300
#: Where they differ by more than this share, they are timed again: one may have had no quiet
#: turn. After so many attempts the difference is theirs.
_ALIKE, _ATTEMPTS = 0.1, 3


def time_beside(new: Bundle, old: Bundle, runs: int) -> dict[str, float]:
    """Returns how much slower each artifact of a bundle is than another bundle's, per LR pixel, as
    a share. The fastest turn of each counts: what else runs on the machine only adds time.

    An artifact that only one of them has, or that a simulator runs, or nothing here, is left out.

    Args:
        runs: timed runs of each artifact, at least; short ones are timed for a second.
    """
    found = {}
    for target in old.facts.edge:
        if target in new.facts.edge and new.facts.edge[target].latency is not None:
            try:
                ours, theirs = (_load(bundle, target) for bundle in (new, old))
            except ValueError as error:
                print(f"Not timed beside the champion's: {target} ({error}).", flush=True)
                continue
            tiles = _tile(new.facts.edge[target]), _tile(old.facts.edge[target])
            found[target] = _slower((ours, theirs), tiles, runs)
    return found


def _slower(runners: tuple[Runner, Runner], tiles: tuple[Tensor, Tensor], runs: int) -> float:
    """Returns how much slower the first runner is, each with its own tile."""
    calls = {
        "ours": lambda: runners[0].run(tiles[0]),
        "theirs": lambda: runners[1].run(tiles[1]),
    }
    warm = time_by_turns(calls, _WARM_UP, warm_up=0)
    enough = math.ceil(_LEAST_MS / sum(map(min, warm.values())))
    fastest = dict.fromkeys(calls, math.inf)
    for _ in range(_ATTEMPTS):
        times = time_by_turns(calls, max(runs, min(enough, _MOST_RUNS)), warm_up=0)
        fastest = {name: min(fastest[name], *times[name]) for name in calls}
        share = fastest["ours"] / fastest["theirs"] * tiles[1].numel() / tiles[0].numel() - 1
        if abs(share) < _ALIKE:
            break
    return round(share, 6)


def _load(bundle: Bundle, target: str) -> Runner:
    """Returns an artifact on all threads; raises ValueError where its runtime is not installed."""
    path = bundle.path / bundle.facts.edge[target].file
    return make_target(target).load(path, num_threads())


def _tile(artifact: EdgeArtifact) -> Tensor:
    """Returns a tile `[1, 3, h, w]` of noise in [0, 1], of a size that the artifact takes."""
    multiple = artifact.input.multiple
    side = -(-_SIDE // multiple) * multiple
    height, width = (length or side for length in artifact.input.shape[-2:])
    return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
