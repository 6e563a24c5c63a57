"""Finds the channels of a network that can only go together, and removes some of them.

The dependencies are found by DepGraph (Fang et al., arXiv 2301.12900; the package torch-pruning).
This module teaches it the pixel shuffle, and leaves alone what it does not understand.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from srmodels.compression.structure import changed_widths, widths_of

#: The ways to judge a channel, by name.
IMPORTANCES = ("lamp", "l1", "taylor", "random")


@dataclass(frozen=True)
class Channels:
    """Channels of a module that can be removed, in units that only go together.

    Attributes:
        group: the number of their group, see `Dependencies.groups`.
        units: for each unit the channels of the group's first layer.
        scores: the importance of each unit, `[len(units)]`; the least important goes first.
        narrows: what one unit takes from the widths of the layers, by name.
    """

    group: int
    units: Sequence[Sequence[int]]
    scores: Tensor
    narrows: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Calls:
    """The arguments that a child module was called with in an inference."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    @torch.no_grad()
    def of(cls, network: nn.Module, child: nn.Module, x_l: Tensor) -> "Calls":
        """Returns the arguments of the first call of `child` for the images x_l."""
        seen: list[Calls] = []
        handle = child.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(cls(args, kwargs)), with_kwargs=True
        )
        try:
            network(x_l)
        finally:
            handle.remove()
        assert seen, "inference does not call this module"
        return seen[0]

    def again(self, module: nn.Module) -> Any:
        """Returns what a module says to these arguments."""
        return module(*self.args, **self.kwargs)


class Dependencies:
    """The dependencies among the channels of one module; what is removed changes the module.

    Args:
        module: a module without branches, with gradients where the importance needs them.
        calls: its arguments.

    Raises:
        ValueError: DepGraph cannot follow the module.
    """

    def __init__(self, module: nn.Module, calls: Calls) -> None:
        import torch_pruning

        self.module = module
        module.requires_grad_(True)
        self.graph = torch_pruning.DependencyGraph()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.graph.build_dependency(
                    module,
                    calls,
                    forward_fn=lambda traced, c: tree_leaves(c.again(traced)),
                    verbose=False,
                )
        except Exception as error:
            raise ValueError(
                f"the dependencies of {type(module).__name__} cannot be found ({error}): name "
                "other networks in the stage's options."
            ) from None
        for node in self.graph.module2node.values():
            _teach_pixel_shuffle(node)
        #: All groups. The same module has the same ones in the same order.
        self.groups: list[Any] = list(self.graph.get_all_groups())

    def remove(self, group: Any, channels: Sequence[int]) -> None:
        """Removes channels of a group's first layer, with all that depend on them."""
        first = group[0].dep
        self.graph.get_pruning_group(first.target.module, first.handler, list(channels)).prune()


def find_channels(module: nn.Module, calls: Calls, importance: str, seed: int) -> list[Channels]:
    """Returns the channels that can be removed: those that layers of the module make and that none
    of its results holds, and without which the module still computes.

    Args:
        module: see `Dependencies`.
        importance: one of IMPORTANCES.
        seed: of `random`.

    Raises:
        ValueError: DepGraph cannot follow the module.
    """
    kinds, found = _kinds(), []
    known = {kinds.CONV, kinds.DEPTHWISE_CONV, kinds.LINEAR, kinds.BN, kinds.PRELU, kinds.GN}
    known |= {kinds.CONCAT, kinds.SPLIT, kinds.ELEMENTWISE, kinds.RESHAPE}
    judge = _judge(importance)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, group in enumerate(Dependencies(module, calls).groups):
            if not _is_made(group) or any(dep.target.type not in known for dep, _ in group):
                continue
            narrows, units = _narrows(module, calls, number), _units(group)
            if narrows is None:
                continue
            scores = judge(group)
            assert scores is not None, "a group has no weights"
            scores = torch.stack([scores[unit].sum() for unit in units]).detach()
            found.append(Channels(number, units, scores, narrows))
    return found


def _is_made(group: Any) -> bool:
    """Tells whether a layer makes a group's channels. Otherwise they are those of the input."""
    kinds = _kinds()
    return any(
        dep.target.type in (kinds.CONV, kinds.LINEAR) and "out_channels" in dep.handler.__name__
        for dep, _ in group
    )


def _narrows(module: nn.Module, calls: Calls, number: int) -> dict[str, list[int]] | None:
    """Returns what one unit of a group takes from the widths of the module's layers, by name; None
    where the module does not compute the same shapes without it."""
    trial = Dependencies(copy.deepcopy(module), calls)
    group = trial.groups[number]
    units = _units(group)
    if len(units) < 2:
        return None
    trial.remove(group, units[0])
    before = widths_of(module)
    after = changed_widths(module, trial.module)
    try:
        with torch.no_grad():
            results = [tree_leaves(calls.again(m)) for m in (module, trial.module)]
    except (RuntimeError, ValueError, IndexError):
        return None
    shapes = [[r.shape for r in leaves if isinstance(r, Tensor)] for leaves in results]
    if shapes[0] != shapes[1]:
        return None
    narrows = {
        name: [old - new for old, new in zip(before[name], width, strict=True)]
        for name, width in after.items()
    }
    # More than a layer has: its channels are tied among each other, as a gated layer's are.
    if any(
        len(units) * taken > old
        for name, width in narrows.items()
        for taken, old in zip(width, before[name], strict=True)
    ):
        return None
    return narrows


def _kinds() -> Any:
    import torch_pruning

    return torch_pruning.ops.OPTYPE


def _units(group: Any) -> list[list[int]]:
    """Returns the channels of a group's first layer in units that go together.

    A group norm stays balanced where every one of its groups gives up as many channels.
    """
    num = len(group[0].idxs)
    parts = max(
        (
            dep.target.module.num_groups
            for dep, _ in group
            if isinstance(dep.target.module, nn.GroupNorm)
        ),
        default=1,
    )
    width = num // parts
    return [[first + part * width for part in range(parts)] for first in range(width)]


def _judge(importance: str) -> Callable[[Any], Tensor | None]:
    from torch_pruning import importance as kinds

    found: Callable[[Any], Tensor | None]
    match importance:
        case "lamp":
            found = kinds.LAMPImportance(p=2)
        case "l1":
            found = kinds.GroupMagnitudeImportance(p=1)
        case "taylor":
            found = kinds.GroupTaylorImportance()
        case "random":
            found = kinds.RandomImportance()
        case _:
            raise AssertionError(importance)
    return found


def _teach_pixel_shuffle(node: Any) -> None:
    """Tells DepGraph that a pixel shuffle makes one channel of scale² that lie side by side."""
    from torch_pruning.dependency.index_mapping import _FlattenIndexMapping

    if node.grad_fn is None or "PixelShuffle" not in node.grad_fn.name():
        return
    stride = node.grad_fn._saved_upscale_factor**2
    for out in node.outputs:
        for source, target, collapse in ((node, out, True), (out, node, False)):
            for dep in source.dependencies:
                if dep.target is target:
                    dep.index_mapping[0] = _FlattenIndexMapping(stride=stride, reverse=collapse)
