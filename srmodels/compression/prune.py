"""Removes the least important channels of a network until it costs as little as it should."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from srmodels.checks import check_one_of
from srmodels.compression.budget import Budget
from srmodels.compression.channels import (
    IMPORTANCES,
    Channels,
    Dependencies,
    find_channels,
    traced,
)
from srmodels.compression.structure import changed_widths, set_widths, widths_of
from srmodels.network import SRNetwork

#: How channels compete: all of a network with each other, or each group's with its own.
SCOPES = ("global", "uniform")


@dataclass(frozen=True)
class Pruning:
    """How channels are chosen.

    Attributes:
        networks: the child modules that become narrower; empty: all that ship.
        importance: `lamp` (Lee et al., arXiv 2010.07611), `l1` (Li et al., arXiv 1608.08710),
            `taylor` (Molchanov et al., arXiv 1906.10771) or `random`.
        scope: `global` or `uniform`.
        round_to: widths are multiples of it, as phones compute them fastest.
        max_removed: the largest share of a layer's channels that is removed.
        seed: of `random`.

    Raises:
        ValueError: there is no such importance or scope, or a number is impossible.
    """

    networks: Sequence[str] = ()
    importance: str = "lamp"
    scope: str = "global"
    round_to: int = 4
    max_removed: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        check_one_of("importance", self.importance, IMPORTANCES)
        check_one_of("scope", self.scope, SCOPES)
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1, not {self.round_to}.")
        if not 0 < self.max_removed < 1:
            raise ValueError(f"max_removed must be above 0 and below 1, not {self.max_removed}.")


def prune(
    network: SRNetwork,
    pruning: Pruning,
    budget: Budget,
    x_l: Tensor | None = None,
    x_h: Tensor | None = None,
    *,
    agree: Callable[[float], float] = lambda cost: cost,
) -> str:
    """Narrows the networks that ship, in place, as little as the budget asks for.

    Branches that ship as one convolution are narrowed as that convolution, and equal it again.

    Args:
        x_l, x_h: real images `[B, 3, h, w]` and `[B, 3, scale·h, scale·w]`, which `taylor` needs.
        agree: turns a cost that was measured here into the one that all ranks go by.

    Returns:
        what was done, for people.

    Raises:
        ValueError: the networks cannot be narrowed, or not so far.
    """
    search = _Search(network, pruning, budget, x_l, x_h, agree)
    before = search.cost_without(0)
    removed = search.fewest(budget.limit(before))
    plain = search.narrowed(removed)
    widths = changed_widths(search.plain, plain)
    set_widths(network, widths)
    network.widths = dict(network.widths) | widths
    network.load_fused_state_dict(plain.inference_state_dict())
    gone = sum(len(units) for *_, units in search.going(removed))
    return (
        f"{gone} of {search.num_units} channels removed by {pruning.importance}: "
        f"{budget.describe(before)} became {budget.describe(search.cost_without(removed))}."
    )


class _Search:
    """The fewest removed channels that keep a budget.

    Attributes:
        plain: the networks as they ship, fused.
        sizes: the same, on the meta device where the budget needs shapes alone.
        num_units: number of units that could go, in the order and not.
        order: the units that may go, the first one first: (name of the network, group, unit).
    """

    def __init__(
        self,
        network: SRNetwork,
        pruning: Pruning,
        budget: Budget,
        x_l: Tensor | None,
        x_h: Tensor | None,
        agree: Callable[[float], float],
    ) -> None:
        self.pruning, self.budget, self.agree = pruning, budget, agree
        self.plain, self.calls = traced(network, pruning.networks)
        if pruning.importance == "taylor":
            assert x_l is not None
            assert x_h is not None
            self.plain.requires_grad_(True)
            F.l1_loss(self.plain(x_l.cpu()), x_h.cpu()).backward()  # type: ignore[no-untyped-call]
        self.found: dict[str, list[Channels]] = {
            name: find_channels(
                self.plain.get_submodule(name), calls, pruning.importance, pruning.seed
            )
            for name, calls in self.calls.items()
        }
        self.num_units = sum(len(c.units) for groups in self.found.values() for c in groups)
        self.order = self._order()
        if not self.order:
            raise ValueError(
                "no channels of these networks can be removed: name others in the options."
            )
        self.plain.zero_grad()
        # Without values nothing is computed, where the measure needs no time.
        self.sizes = self.plain if budget.runs else copy.deepcopy(self.plain).to("meta")

    def _order(self) -> list[tuple[str, int, int]]:
        """Returns the units in the order in which they go, without those that must stay."""
        ranked = []
        for name, groups in self.found.items():
            for channels in groups:
                num = len(channels.units)
                going = channels.scores.argsort(stable=True)[: self._most(num)]
                for place, unit in enumerate(going.tolist()):
                    by_rank = self.pruning.scope == "uniform"
                    key = place / num if by_rank else float(channels.scores[unit])
                    ranked.append((key, name, channels.group, unit))
        return [(name, group, unit) for _, name, group, unit in sorted(ranked)]

    def _most(self, num: int) -> int:
        """Returns how many of a group's units may go."""
        return num - self._kept(num, int(num * self.pruning.max_removed))

    def _kept(self, num: int, removed: int) -> int:
        """Returns how many units stay where `removed` of them could go: a multiple of `round_to`,
        where there are as many."""
        to = self.pruning.round_to
        return min(num, -(-max(num - removed, 1) // to) * to)

    def fewest(self, limit: float) -> int:
        """Returns how many units must go.

        Raises:
            ValueError: it is never enough.
        """
        low, high = 0, len(self.order)
        least = self.cost_without(high)
        if least > limit:
            raise ValueError(
                f"the networks cannot be brought down to {self.budget.describe(limit)}: with "
                f"max_removed={self.pruning.max_removed} {self.budget.describe(least)} remain."
            )
        while low < high:
            middle = (low + high) // 2
            if self.cost_without(middle) <= limit:
                high = middle
            else:
                low = middle + 1
        return low

    def cost_without(self, removed: int) -> float:
        """Returns the cost without the first units of the order. Their number alone matters to it,
        so arbitrary weights do."""
        narrow = copy.deepcopy(self.sizes)
        widths = widths_of(narrow)
        for name, channels, units in self.going(removed):
            for layer, channels_of_unit in channels.narrows.items():
                width = widths[f"{name}.{layer}"]
                for place, count in enumerate(channels_of_unit):
                    width[place] -= len(units) * count
        set_widths(narrow, widths)
        return self.agree(self.budget.cost(narrow.eval()))

    def narrowed(self, removed: int) -> SRNetwork:
        """Returns a copy of the networks without the first units of the order."""
        plain = copy.deepcopy(self.plain)
        graphs = {
            name: Dependencies(plain.get_submodule(name), calls)
            for name, calls in self.calls.items()
        }
        for name, channels, units in self.going(removed):
            chosen = sorted(c for unit in units for c in channels.units[unit])
            graphs[name].remove(graphs[name].groups[channels.group], chosen)
        return plain.eval()

    def going(self, removed: int) -> Iterator[tuple[str, Channels, list[int]]]:
        """Yields the units that go with the first of the order, group by group: the network's
        name, the group's channels and the units, so many that the widths are round."""
        going: dict[tuple[str, int], list[int]] = {}
        for name, group, unit in self.order[:removed]:
            going.setdefault((name, group), []).append(unit)
        for name, groups in self.found.items():
            for channels in groups:
                units = going.get((name, channels.group), [])
                count = len(channels.units)
                if units := units[: count - self._kept(count, len(units))]:
                    yield name, channels, units
