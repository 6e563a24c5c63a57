"""Networks are built again, narrower or quantised, from the numbers that compression wrote."""

import pytest
import torch
from torch import nn

from srmodels.compression.structure import changed_widths, set_widths, widths_of
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.system import SYSTEM


def layers() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1, stride=2),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(4 * 16, 2),
    )


def test_new_layers_differ_in_their_widths_alone() -> None:
    network, wide = layers(), layers()
    wanted = {"0": [3, 6], "1": [6], "2": [6, 6], "3": [6], "4": [6, 2], "5": [2], "7": [32, 2]}
    set_widths(network, wanted)
    assert changed_widths(wide, network) == wanted
    assert network(torch.rand(1, 3, 8, 8)).shape == (1, 2)
    depthwise = network.get_submodule("2")
    assert isinstance(depthwise, nn.Conv2d)
    assert (depthwise.groups, depthwise.bias, depthwise.padding_mode) == (6, None, "reflect")


def test_layers_of_the_same_width_stay_themselves() -> None:
    network = layers()
    before = list(network)
    set_widths(network, widths_of(network))
    assert all(one is other for one, other in zip(before, network, strict=True))


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ({"8": [3, 6]}, "names '8', which is no layer"),
        ({"6": [3]}, "names '6', which is no layer"),
        ({"0": [3]}, "0 is [3], but Conv2d has 2 width"),
        ({"1": [0]}, "1 is [0], but PReLU has 1 width"),
    ],
)
def test_impossible_widths_are_refused(widths: dict[str, list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=r"networks\.widths") as refused:
        set_widths(layers(), widths)
    assert words in str(refused.value)


def test_a_branched_layer_is_one_layer() -> None:
    config = F2SRGANConfig(trunk="plain", channels=8, num_blocks=2)
    network = SYSTEM.build(config)
    names = ["generator.layers.0", "generator.layers.1", "generator.tail"]
    assert list(widths_of(network)) == names
    config.widths = {names[0]: [3, 4], names[1]: [4, 8]}
    narrow = SYSTEM.build(config)
    assert changed_widths(network, narrow) == config.widths
    assert narrow.structure == {"widths": config.widths, "quantised": ""}
    assert narrow(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)


def test_there_is_no_such_precision() -> None:
    with pytest.raises(ValueError, match=r"networks.quantised is 'int4': use one of"):
        F2SRGANConfig(quantised="int4")
