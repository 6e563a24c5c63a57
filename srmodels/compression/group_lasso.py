"""Group lasso: a penalty that empties channels before pruning removes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from srmodels.compression.channels import Dependencies, Removable, find_removable, traced
from srmodels.layers import ReparameterisedConv
from srmodels.network import SRNetwork

#: The sum of squares of a unit that counts as none. A root has no slope at 0.
_EMPTY = 1e-12


@dataclass(frozen=True)
class _Part:
    """The weights of one layer that belong to the units of a group.

    Attributes:
        layer: the layer's name in the networks.
        axis: the axis of its weight that the units divide, 0 or 1.
        places: the places of each unit on that axis, `[units, places of one]`.
    """

    layer: str
    axis: int
    places: Tensor


class GroupLasso:
    """The penalty Σ_u √n_u · ‖w_u‖₂ over all units u that `prune` could remove.

    w_u are the n_u weights that go with a unit, those of every layer that depends on it: the
    channels of a residual trunk are one unit from end to end, and those that a pixel shuffle makes
    one channel of are, too. A plain L2 penalty makes all weights small; this one lets whole units
    become 0 (Yuan and Lin, J. R. Stat. Soc. B 68:49, 2006, whose factor √n_u weighs units of
    different sizes alike).

    Light F2SRGAN trains with a group lasso before it prunes (Electronics 12(11):2544, Eq. 11). The
    form above is a reconstruction: the sum over the groups of DepGraph (arXiv 2301.12900), which
    the paper prunes by, and Yuan and Lin's factor.

    A branched convolution counts as the one that it ships as. Biases, slopes and the gains of group
    norms go with a unit and do not count.

    Args:
        network: the networks that learn. They are not kept.
        names: the child modules that `prune` will narrow; empty: all that ship.

    Raises:
        ValueError: the dependencies of a module cannot be found, or nothing can be removed.
    """

    def __init__(self, network: SRNetwork, names: Sequence[str] = ()) -> None:
        plain, calls = traced(network, names)
        device = next(network.parameters()).device
        self.groups: list[list[_Part]] = []
        for name, called in calls.items():
            found = Dependencies(plain.get_submodule(name), called)
            for removable in find_removable(found, called):
                self.groups.append(_parts(name, found, removable, device))
        if not self.groups:
            raise ValueError(
                "no channels of these networks can be removed, so group_lasso_weight would do "
                "nothing: set group_lasso_networks to others, or the weight to 0."
            )

    @property
    def num_units(self) -> int:
        """The number of units that could go."""
        return sum(len(parts[0].places) for parts in self.groups)

    def norms(self, network: SRNetwork) -> list[Tensor]:
        """Returns √n_u · ‖w_u‖₂ of each unit, `[units]` for every group, in fp32."""
        names = dict.fromkeys(part.layer for parts in self.groups for part in parts)
        with torch.autocast(next(network.parameters()).device.type, enabled=False):
            weights = {name: _weight(network.get_submodule(name)).float() for name in names}
            return [_norms(parts, weights) for parts in self.groups]

    def __call__(self, network: SRNetwork) -> Tensor:
        """Returns the penalty of these weights, a scalar.

        Args:
            network: networks of the structure that the units were found in.
        """
        return torch.stack([norms.sum() for norms in self.norms(network)]).sum()


def _parts(
    name: str, found: Dependencies, removable: Removable, device: torch.device
) -> list[_Part]:
    group = found.groups[removable.group]
    units = [found.weights_of(group, unit) for unit in removable.units]
    return [
        _Part(
            f"{name}.{layer}", axis, torch.tensor([unit[layer, axis] for unit in units]).to(device)
        )
        for layer, axis in units[0]
    ]


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.kernel()[0] if isinstance(layer, ReparameterisedConv) else layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _norms(parts: Sequence[_Part], weights: dict[str, Tensor]) -> Tensor:
    squares, count = [], 0
    for part in parts:
        weight = weights[part.layer].transpose(0, part.axis)
        weight = weight.reshape(len(weight), -1)  # a batch norm's has one axis
        # Gathered, and not added up where they belong: on a GPU that would have no fixed order.
        squares.append(weight.square().sum(1)[part.places].sum(1))
        count += weight.shape[1] * part.places.shape[1]
    total = torch.stack(squares).sum(0)
    norms: Tensor = count**0.5 * total.clamp_min(_EMPTY).sqrt()
    return norms
