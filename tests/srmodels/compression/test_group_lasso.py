"""The group lasso counts what pruning removes, and empties it."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.compression.budget import Budget
from srmodels.compression.group_lasso import GroupLasso
from srmodels.compression.prune import Pruning, prune
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.network import F2SRGAN
from srmodels.f2srgan.system import SYSTEM
from srmodels.network import SRNetwork
from srmodels.stages import DistillStage, PixelStage, QuantizeStage
from tests.srmodels.compression.test_prune import images, make, rdsr


def weight(network: SRNetwork, layer: str) -> Tensor:
    found = network.get_submodule(f"generator.{layer}").weight
    assert isinstance(found, Tensor)
    return found


def empty(network: SRNetwork, unit: int, parts: dict[str, int], channels: int = 1) -> None:
    """Makes a unit's weights 0: those of layers on an axis of their weights."""
    with torch.no_grad():
        for layer, axis in parts.items():
            wide = channels if layer == "upsampler.0.1" else 1
            weight(network, layer).transpose(0, axis)[wide * unit : wide * (unit + 1)] = 0


#: The layers of a separable network of one block that share channels, with the axis.
TRUNK = {
    "head.1": 0,
    "body.0.layers.0.0": 0,
    "body.0.layers.0.1": 1,
    "body.0.layers.2.1": 0,
    "upsampler.0.0": 0,
    "upsampler.0.1": 1,
}
SHUFFLED = {"upsampler.0.1": 0, "upsampler.3.0": 0, "upsampler.3.1": 1}


def test_a_unit_is_all_that_goes_with_a_channel() -> None:
    """The units of branches are those of the convolution that ships."""
    network = make()
    lasso = GroupLasso(network)
    assert (len(lasso.groups), lasso.num_units) == (2, 32)
    layers = copy.deepcopy(network).fuse()
    first, second, tail = (weight(layers, name) for name in ("layers.0", "layers.1", "tail"))
    expected = torch.zeros(())
    for one, following in ((first, second), (second, tail)):
        for unit in range(16):
            whole = torch.cat([one[unit].flatten(), following[:, unit].flatten()])
            expected = expected + whole.numel() ** 0.5 * whole.norm()
    torch.testing.assert_close(lasso(network), expected)
    lasso(network).backward()  # type: ignore[no-untyped-call]
    branches = network.get_submodule("generator.layers.1").parameters()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in branches if p.dim() == 4)


class Normed(SRNetwork):
    """Two convolutions with a batch norm between them."""

    scale, size_multiple = 4, 1

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 48, 3, padding=1)
        )

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"body": self.body}

    def forward(self, x_l: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x_l), self.scale)


def test_the_gain_of_a_batch_norm_goes_with_its_channel() -> None:
    network = Normed()
    lasso = GroupLasso(network)
    first, norm, last = (dict(layer.named_parameters())["weight"] for layer in network.body)
    expected = []
    for unit in range(8):
        parts = first[unit], norm[unit], last[:, unit]
        whole = torch.cat([part.flatten() for part in parts])
        expected.append(whole.numel() ** 0.5 * whole.norm())
    assert lasso.num_units == 8
    torch.testing.assert_close(torch.cat(lasso.norms(network)), torch.stack(expected))


@pytest.mark.parametrize(("parts", "channels"), [(TRUNK, 1), (SHUFFLED, 4)])
def test_what_is_empty_is_what_pruning_removes(parts: dict[str, int], channels: int) -> None:
    """From end to end of a residual trunk, and the four channels of each shuffled one."""
    network = make("separable", 8, 1)
    empty(network, 5, parts, channels)
    found = GroupLasso(network).norms(network)
    silent = [(group, unit) for group, n in enumerate(found) for unit in range(8) if n[unit] < 1e-4]
    assert [unit for _, unit in silent] == [5]
    ((group, _),) = silent
    names = {f"generator.{layer}" for layer in parts}
    assert {part.layer for part in GroupLasso(network).groups[group]} == names
    before = copy.deepcopy(network)
    prune(network, Pruning(round_to=1, importance="l1"), Budget(keep=0.9999))
    for layer, axis in parts.items():
        kept = [unit for unit in range(8) if unit != 5]
        wide = channels if layer == "upsampler.0.1" else 1
        places = [wide * unit + place for unit in kept for place in range(wide)]
        whole = weight(before, layer).transpose(0, axis)[places].transpose(0, axis)
        torch.testing.assert_close(weight(network, layer), whole)


def test_a_modulation_goes_with_its_channel() -> None:
    """Both rows of a modulation go with a channel, and autocast changes nothing."""
    network = rdsr()
    lasso = GroupLasso(network, ["decoder"])
    layers = {part.layer: part for parts in lasso.groups for part in parts if part.axis == 0}
    assert layers["decoder.body.0.modulation"].places[3].tolist() == [3, 19]
    assert all(part.layer.startswith("decoder.") for parts in lasso.groups for part in parts)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = lasso(network)
    assert torch.equal(rounded, lasso(network))


def test_an_empty_unit_stays_empty() -> None:
    """The root has no slope at 0, which would be no number."""
    network = make("separable", 8, 1)
    empty(network, 5, TRUNK)
    GroupLasso(network)(network).backward()  # type: ignore[no-untyped-call]
    gradient = weight(network, "head.1").grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert not gradient[5].any()
    assert gradient[4].any()


def trained(group_lasso_weight: float, steps: int = 120) -> PixelStage:
    torch.manual_seed(0)
    network = SYSTEM.build(F2SRGANConfig(trunk="plain", channels=16, num_blocks=2, conv="plain"))
    stage = PixelStage(network, PixelStage.Options(group_lasso_weight=group_lasso_weight)).train()
    stage.prepare()
    x_l = images(4)
    x_h = nn.functional.interpolate(x_l, scale_factor=4, mode="bicubic").clamp(0, 1)
    optimizer = torch.optim.Adam(stage.trained_parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        stage(x_l, x_h, torch.arange(4))["loss"].backward()
        optimizer.step()
    return stage


def test_training_with_it_empties_units_and_pruning_costs_less_then() -> None:
    x_l = images(4)
    spread, cost = {}, {}
    for factor in (0.0, 1e-4):
        stage = trained(factor)
        norms = torch.cat(GroupLasso(stage.network).norms(stage.network)).detach()
        spread[factor] = (norms < 0.1 * norms.max()).sum().item()
        whole = copy.deepcopy(stage.network).eval()(x_l)
        prune(stage.network, Pruning(importance="l1", round_to=1), Budget(keep=0.8))
        cost[factor] = (stage.network.eval()(x_l) - whole).abs().mean().item()
    assert spread[1e-4] > spread[0.0]
    assert cost[1e-4] < 0.5 * cost[0.0]


@pytest.mark.parametrize("kind", [PixelStage, DistillStage])
def test_stages_add_it_to_what_they_minimise(kind: type[PixelStage]) -> None:
    network = make()
    x_l, x_h, seeds = images(), torch.rand(2, 3, 64, 64), torch.arange(2)
    losses = {}
    for factor in (0.0, 1e-3):
        stage = kind(network, kind.Options(group_lasso_weight=factor)).train()
        told = stage.prepare()
        if kind.takes_teacher:
            stage.learn_from(make(channels=8))
        losses[factor] = stage(x_l, x_h, seeds)
    assert told == ["Group lasso over 32 units of channels in 2 groups, with a weight of 0.001."]
    assert losses[1e-3].keys() - losses[0.0].keys() == {"group_lasso"}
    assert losses[1e-3]["group_lasso"] == GroupLasso(network)(network)
    expected = losses[0.0]["loss"] + 1e-3 * losses[1e-3]["group_lasso"]
    torch.testing.assert_close(losses[1e-3]["loss"], expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group_lasso_weight": -1.0}, "group_lasso_weight must be at least 0, not -1"),
        ({"group_lasso_networks": ["decoder"]}, "group_lasso_networks is 'decoder': use one of g"),
        ({"l1_weight": 0.0}, "all weights are 0, so there is nothing to learn: set one of l1_weig"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"group_lasso_weight": 1e-4} | options
    with pytest.raises(ValueError, match=words):
        PixelStage(make(), PixelStage.Options(**given))


def test_networks_that_nothing_will_prune_are_refused() -> None:
    quantised = SYSTEM.build(F2SRGANConfig(trunk="plain", channels=16, quantised="int8"))
    with pytest.raises(ValueError, match="quantised already, and nothing can be pruned then"):
        PixelStage(quantised, PixelStage.Options(group_lasso_weight=1e-4))
    with pytest.raises(ValueError, match="what is quantised cannot be pruned"):
        QuantizeStage(make(), QuantizeStage.Options(group_lasso_weight=1e-4))
    alone = F2SRGAN(F2SRGANConfig(trunk="plain"))
    with pytest.raises(ValueError, match=r"derive from srmodels\.compression"):
        PixelStage(alone, PixelStage.Options(group_lasso_weight=1e-4))
    stage = PixelStage(make("fourier"), PixelStage.Options(group_lasso_weight=1e-4))
    with pytest.raises(ValueError, match="dependencies of SeparableGenerator cannot be found"):
        stage.prepare()


class OneLayer(SRNetwork):
    """Networks that are one convolution, all of whose channels are pixels."""

    scale, size_multiple = 4, 1

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"body": self.body}

    def forward(self, x_l: Tensor) -> Tensor:
        x: Tensor = self.body(x_l)
        return x


def test_networks_without_removable_channels_are_told_so() -> None:
    with pytest.raises(ValueError, match="so group_lasso_weight would do nothing"):
        GroupLasso(OneLayer())
