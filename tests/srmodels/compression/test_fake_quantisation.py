"""Rounded layers compute what integers would, and learn in spite of it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from srmodels.compression.fake_quantisation import (
    Range,
    RoundingConv2d,
    find_ranges,
    quantise_layers,
    round_weight,
    rounding,
    rounding_layers,
    weight_steps,
)
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.system import SYSTEM
from srmodels.network import SRNetwork


def images(number: int = 2) -> Tensor:
    return torch.rand(number, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def make(quantised: str = "int8", trunk: str = "plain") -> SRNetwork:
    torch.manual_seed(0)
    config = F2SRGANConfig(trunk=trunk, channels=16, num_blocks=2, quantised=quantised)
    return SYSTEM.build(config)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_range_has_as_many_levels_as_its_bits_and_zero_is_one(bits: int) -> None:
    learned = Range(bits)
    learned.set_ends(-0.3, 0.9)
    x = torch.linspace(-1, 2, 300_001)
    rounded = learned(x)
    assert len(rounded.unique()) == 2**bits
    assert learned(torch.zeros(1)).item() == 0
    step, _ = learned.steps()
    inside = (x > -0.3) & (x < 0.9)
    assert (rounded - x)[inside].abs().max() <= 0.505 * step.item()
    # What lies outside is clipped to the ends, which zero moves by half a step at most.
    assert abs(rounded.min().item() + 0.3) <= step.item()
    assert abs(rounded.max().item() - 0.9) <= step.item()


def test_both_ends_of_a_range_learn() -> None:
    learned = Range(8)
    learned.set_ends(-0.5, 0.5)
    x = torch.linspace(-1, 1, 101)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.002)
    for _ in range(60):
        optimizer.zero_grad()
        (learned(x) - x).square().mean().backward()
        optimizer.step()
    low, high = learned.ends()
    assert low.item() == pytest.approx(-1, abs=0.1)
    assert high.item() == pytest.approx(1, abs=0.1)


def test_weights_have_255_symmetric_levels_for_each_channel() -> None:
    weight = torch.randn(3, 4, 3, 3) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    rounded = round_weight(weight)
    for own, wide in zip(rounded, weight, strict=True):
        step = wide.abs().max() / 127
        assert (own - wide).abs().max() <= 0.5001 * step
        torch.testing.assert_close((own / step).round() * step, own)


def test_networks_round_while_they_train_and_elsewhere_on_demand() -> None:
    network, plain = make(), make("")
    find_ranges(network, [images()])
    expected = plain.fuse()(images())
    with torch.no_grad():
        assert torch.equal(network.eval()(images()), expected)
        with rounding(network):
            rounded = network(images())
        assert torch.equal(network(images()), expected)
        trained = network.train()(images())
    assert 0 < (rounded - expected).abs().max() < 0.1
    assert torch.equal(trained.clamp(0, 1), rounded)


def test_what_rounding_clips_is_clipped_without_it() -> None:
    """Training learns with the clipping, so it belongs to the function that ships."""
    network = make()
    find_ranges(network, [images()])
    whole = network.eval()(images())
    low, high = network.get_submodule("generator.layers.1").input_range.ends()  # type: ignore[union-attr,operator]
    network.get_submodule("generator.layers.1").input_range.set_ends(0, 0.3 * high.item())  # type: ignore[union-attr,operator]
    clipped = network(images())
    with rounding(network):
        rounded = network(images())
    assert low.item() == 0
    assert (clipped - rounded).abs().mean() < 0.3 * (whole - rounded).abs().mean()


def test_what_ships_has_the_weights_that_integers_hold() -> None:
    """Training moves weights between the levels; only the levels were multiplied."""
    network = make()
    find_ranges(network, [images()])
    with torch.no_grad(), rounding(network.eval()):
        expected = network(images())
        shipped = copy.deepcopy(network).fuse()
        assert torch.equal(shipped(images()), expected)
    layer, latent = (n.get_submodule("generator.layers.1") for n in (shipped, network))
    assert torch.equal(layer.weight, round_weight(latent.weight))  # type: ignore[arg-type]
    again = copy.deepcopy(shipped).fuse().state_dict()
    assert all(torch.equal(again[n], w) for n, w in shipped.state_dict().items())
    halves = {n: w.half().float() for n, w in shipped.inference_state_dict().items()}
    shipped.load_inference_state_dict(halves)
    half = round_weight(shipped.get_submodule("generator.layers.1").weight)  # type: ignore[arg-type]
    steps = weight_steps(layer.weight).view(-1, 1, 1, 1)  # type: ignore[arg-type]
    assert torch.equal((half / steps).round(), (layer.weight / steps).round())  # type: ignore[operator]


def test_what_ships_is_rounded_and_not_its_branches() -> None:
    layers = rounding_layers(make())
    assert list(layers) == ["generator.layers.0", "generator.layers.1", "generator.tail"]
    assert all(type(layer) is RoundingConv2d for layer in layers.values())
    make().train()  # It can be trained although its branches are gone.


def test_fourier_units_keep_their_precision() -> None:
    names = list(rounding_layers(make(trunk="fourier")))
    assert names
    assert not any("whole" in name or "quadrants" in name for name in names)
    find_ranges(network := make(trunk="fourier"), [images(1)])
    assert network(images()).isfinite().all()


def test_ranges_are_the_extremes_of_what_a_layer_sees() -> None:
    network = make()
    seen: list[Tensor] = []
    layer = network.get_submodule("generator.layers.1")
    find_ranges(network, [images(1), images(2)[1:]])
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.eval()(images(1)), network(images(2)[1:])
    range_ = layer.input_range
    assert isinstance(range_, Range)
    low, high = range_.ends()
    assert low.item() == 0, "ReLU comes before it"
    assert high.item() == pytest.approx(max(x.max().item() for x in seen))


def test_rounded_networks_learn_what_rounding_took() -> None:
    """A range that clips most of what a layer sees is learned again."""
    network = make()
    wanted = make("").fuse()(images()).detach()
    find_ranges(network, [images(1)])
    with torch.no_grad():
        network.get_submodule("generator.layers.1").input_range.high.mul_(0.2)  # type: ignore[union-attr,operator]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (network(images()) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_quantised_network_is_copied_whole() -> None:
    network = make()
    find_ranges(network, [images(1)])
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        with rounding(other):
            assert other.eval()(images()).std() > 0


def test_linear_layers_round_too() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    quantise_layers([module], "int8")
    x = torch.rand(5, 4)
    assert not torch.equal(module.train()(x), module.eval()(x))
