"""Which layers int8 has to spare."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from srmodels.edge.sparing import rank_layers, spare_fewest
from srmodels.edge.target import Calibration, Cost


def dear(share: float) -> Cost:
    return Cost(share, "something")


@pytest.mark.parametrize("harmed", [0, 1, 2])
def test_the_layer_that_int8_harms_most_is_the_first(harmed: int) -> None:
    """One value far from all others widens the steps of the layer that reads it."""
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    with torch.no_grad():
        for layer in network:
            nn.init.dirac_(layer.weight)
            layer.bias.zero_()
        # Its fourth channel is large, and nothing after it reads that channel.
        if harmed:
            network[harmed - 1].bias[3] = 100.0
        network[harmed].weight[:, 3] = 0.0
    images = [torch.rand(1, 4, 8, 8) for _ in range(2)]
    if harmed == 0:
        for image in images:
            image[:, 3] = 100.0
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    assert rank_layers(network, images)[0] == str(harmed)
    assert all(torch.equal(weight, weights[n]) for n, weight in network.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in network)


@pytest.mark.parametrize("needed", [1, 2, 5, 7])
def test_as_few_are_spared_as_are_enough(needed: int) -> None:
    order, told = [str(number) for number in range(8)], []

    def cost(spared: Sequence[str]) -> Cost:
        assert list(spared) == order[: len(spared)]
        return dear(0.1 / 0.15 if len(spared) >= needed else 0.2 / 0.15)

    calibration = Calibration([], lambda runner: dear(0.0), on_trial=told.append)
    assert spare_fewest(order, cost, calibration) == order[:needed]
    assert told


def test_one_layer_is_quantised_even_if_that_costs_too_much() -> None:
    calibration = Calibration([], lambda runner: dear(0.0))
    assert spare_fewest(["a", "b", "c"], lambda spared: dear(90.0), calibration) == ["a", "b"]
