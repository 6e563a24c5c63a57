"""Finds the channels of a network that can only go together, and removes some of them.

The dependencies are found by DepGraph (Fang et al., arXiv 2301.12900; the package torch-pruning).
This module teaches it the pixel shuffle, and leaves alone what it does not understand.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from srmodels.checks import check_one_of
from srmodels.compression.structure import changed_widths, widths_of
from srmodels.network import SRNetwork

#: The ways to judge a channel, by name.
IMPORTANCES = ("lamp", "l1", "taylor", "random")
#: Side of the LR image that dependencies are traced with, pixels.
_TRACED = 32


@dataclass(frozen=True)
class Removable:
    """Channels of a module that can be removed, in units that only go together.

    Attributes:
        group: the number of their group, see `Dependencies.groups`.
        units: for each unit the channels of the group's first layer.
        narrows: what one unit takes from the widths of the layers, by name.
    """

    group: int
    units: Sequence[Sequence[int]]
    narrows: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Channels(Removable):
    """Channels that can be removed, with their worth.

    Attributes:
        scores: the importance of each unit, `[len(units)]`; the least important goes first.
    """

    scores: Tensor


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


def traced(network: SRNetwork, names: Sequence[str]) -> tuple[SRNetwork, dict[str, Calls]]:
    """Returns the networks as they ship, a fused copy in main memory, and the calls of the child
    modules with these names; without names, of all that ship.

    Raises:
        ValueError: a name is that of no module that ships.
    """
    plain = copy.deepcopy(network).cpu().float().fuse()
    shipped = plain.inference_modules()
    for name in names:
        check_one_of("networks", name, tuple(shipped))
    black = torch.zeros(1, 3, _TRACED, _TRACED)
    return plain, {name: Calls.of(plain, shipped[name], black) for name in names or shipped}


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
        self._with(group, channels).prune()

    def weights_of(self, group: Any, channels: Sequence[int]) -> dict[tuple[str, int], list[int]]:
        """Returns the weights that go with channels of a group's first layer: by the layer's name
        and the axis of its weight, their places on that axis.

        They are those of convolutions, linear layers and batch norms. What else goes along is not
        among them: biases, slopes and the gains of group norms.
        """
        names = {module: name for name, module in self.module.named_modules()}
        found: dict[tuple[str, int], set[int]] = {}
        for dep, places in self._with(group, channels):
            axis = _axis_of_weight(dep)
            if axis is not None:
                found.setdefault((names[dep.target.module], axis), set()).update(places)
        return {part: sorted(places) for part, places in found.items()}

    def _with(self, group: Any, channels: Sequence[int]) -> Any:
        first = group[0].dep
        return self.graph.get_pruning_group(first.target.module, first.handler, list(channels))


def find_channels(module: nn.Module, calls: Calls, importance: str, seed: int) -> list[Channels]:
    """Returns the channels that can be removed, see `find_removable`, with their importance.

    Args:
        module: see `Dependencies`.
        importance: one of IMPORTANCES.
        seed: of `random`.

    Raises:
        ValueError: DepGraph cannot follow the module.
    """
    found, judge = [], _judge(importance)
    dependencies = Dependencies(module, calls)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for that in find_removable(dependencies, calls):
            scores = judge(dependencies.groups[that.group])
            assert scores is not None, "a group has no weights"
            scores = torch.stack([scores[unit].sum() for unit in that.units]).detach()
            found.append(Channels(that.group, that.units, that.narrows, scores))
    return found


def find_removable(dependencies: Dependencies, calls: Calls) -> Iterator[Removable]:
    """Yields the channels that can be removed: those that layers of the module make and that none
    of its results holds, and without which the module still computes."""
    kinds = _kinds()
    known = {kinds.CONV, kinds.DEPTHWISE_CONV, kinds.LINEAR, kinds.BN, kinds.PRELU, kinds.GN}
    known |= {kinds.CONCAT, kinds.SPLIT, kinds.ELEMENTWISE, kinds.RESHAPE}
    for number, group in enumerate(dependencies.groups):
        if not _is_made(group) or any(dep.target.type not in known for dep, _ in group):
            continue
        narrows = _narrows(dependencies.module, calls, number)
        if narrows is not None:
            yield Removable(number, _units(group), narrows)


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


def _axis_of_weight(dep: Any) -> int | None:
    """Returns the axis of a layer's weight that a dependency narrows; None where it has no weight
    that counts."""
    kinds, layer = _kinds(), dep.target.module
    match dep.target.type:
        case kinds.CONV | kinds.LINEAR if "out_channels" in dep.handler.__name__:
            return 0
        case kinds.LINEAR:
            return 1
        case kinds.CONV:
            # The groups of a grouped convolution share the places on this axis.
            return 1 if layer.groups == 1 else None
        case kinds.DEPTHWISE_CONV:
            return 0
        case kinds.BN:
            return 0 if layer.affine else None
    return None


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
