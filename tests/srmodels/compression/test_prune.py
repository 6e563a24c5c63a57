"""Pruned networks compute what the wide ones would without the removed channels."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pipelines.config.load import load_config
from srmodels.compression.budget import Budget
from srmodels.compression.channels import Calls, find_channels
from srmodels.compression.prune import Pruning, prune
from srmodels.compression.structure import widths_of
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.system import SYSTEM
from srmodels.network import SRNetwork
from srmodels.rdsr.config import DecoderConfig, PriorEncoderConfig, RDSRConfig
from srmodels.rdsr.system import SYSTEM as RDSR
from srmodels.system import load_system
from tests.conftest import SMALL


def make(trunk: str = "plain", channels: int = 16, num_blocks: int = 2) -> SRNetwork:
    torch.manual_seed(0)
    return SYSTEM.build(F2SRGANConfig(trunk=trunk, channels=channels, num_blocks=num_blocks))


def images(number: int = 2) -> Tensor:
    return torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def silence(network: SRNetwork, layer: str, channels: list[int]) -> None:
    """Lets a convolution's channels be 0, whatever it sees."""
    conv = network.get_submodule(layer)
    weight, bias = conv.kernel()  # type: ignore[operator]
    weight, bias = weight.detach().clone(), bias.detach().clone()
    weight[channels], bias[channels] = 0, 0
    conv.become(weight, bias)  # type: ignore[operator]


@pytest.mark.parametrize("importance", ["lamp", "l1", "taylor"])
def test_channels_that_say_nothing_go_first_and_nobody_misses_them(importance: str) -> None:
    network = make()
    silent = [3, 4, 7, 9, 10, 11, 12, 15]
    silence(network, "generator.layers.1", silent)
    expected = copy.deepcopy(network).fuse()(images())
    x_h = torch.rand(2, 3, 64, 64)
    done = prune(network, Pruning(importance=importance), Budget(keep=0.75), images(), x_h)
    assert network.widths == {"generator.layers.1": [16, 8], "generator.tail": [8, 48]}
    assert importance in done
    assert network.training, "it learns on"
    torch.testing.assert_close(network.fuse()(images()), expected, atol=1e-5, rtol=0)


def test_a_pixel_shuffle_loses_scale_squared_channels_for_each_one() -> None:
    network = make("separable", 8)
    prune(network, Pruning(round_to=1, importance="l1"), Budget(keep=0.5))
    for number in (0, 3):
        made = widths_of(network)[f"generator.upsampler.{number}.1"][1]
        assert made < 32
        assert widths_of(network)[f"generator.upsampler.{number + 2}"] == [made // 4]
    assert network(images()).shape == (2, 3, 64, 64)


def test_removed_channels_of_a_shuffle_are_those_of_the_least_important_image() -> None:
    """The four channels that make one of the enlarged ones go together."""
    network = make("separable", 8)
    upsampler = network.get_submodule("generator.upsampler")
    conv, prelu = upsampler[0][1], upsampler[2]  # type: ignore[index]
    with torch.no_grad():
        conv.weight[4 * 5 : 4 * 5 + 4], conv.bias[4 * 5 : 4 * 5 + 4] = 0, 0
        upsampler[3][0].weight[5], upsampler[3][0].bias[5] = 0, 0  # type: ignore[index]
        upsampler[3][1].weight[:, 5] = 0  # type: ignore[index]
        prelu.weight[5] = 0
    expected = copy.deepcopy(network).eval()(images())
    prune(network, Pruning(round_to=1), Budget(keep=0.999))
    assert network.widths["generator.upsampler.2"] == [7]
    torch.testing.assert_close(network.eval()(images()), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_widths_are_round_and_the_budget_is_kept(scope: str) -> None:
    network = make("separable", 16)
    fused = copy.deepcopy(network).fuse()
    budget = Budget("parameters", keep=0.5)
    limit = budget.limit(budget.cost(fused))
    prune(network, Pruning(scope=scope, round_to=4), budget)
    assert budget.cost(copy.deepcopy(network).fuse()) <= limit
    ends = {3, 48}
    assert {w % 4 for width in network.widths.values() for w in width if w not in ends} == {0}


def test_uniform_narrows_all_groups_alike() -> None:
    network = make(num_blocks=4)
    prune(network, Pruning(scope="uniform"), Budget(keep=0.4))
    assert {width[1] for name, width in network.widths.items() if "layers" in name} == {8}


def test_random_depends_on_the_seed_alone() -> None:
    networks = [make() for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        torch.rand(seed)
        prune(network, Pruning(importance="random", round_to=1, seed=seed), Budget(keep=0.6))
    one, same, other = (network.fuse()(images()) for network in networks)
    torch.testing.assert_close(one, same, atol=1e-5, rtol=0)
    assert (one - other).abs().max() > 1e-3


def test_bytes_are_those_of_the_artifact() -> None:
    network = make(num_blocks=1)
    before = Budget("bytes", tile=32).cost(copy.deepcopy(network).fuse())
    prune(network, Pruning(), Budget("bytes", at_most=before - 2_000, tile=32))
    after = Budget("bytes", tile=32).cost(copy.deepcopy(network).fuse())
    assert 0.5 * before < after <= before - 2_000


def test_milliseconds_are_those_of_a_run_of_the_artifact() -> None:
    budget = Budget("milliseconds", tile=32)
    cost = budget.cost(make().fuse())
    assert cost > 0
    assert budget.describe(cost).endswith("ms at 32 px (onnx_fp32)")


def test_ranks_go_by_the_cost_that_they_agree_on() -> None:
    """Where one clock says more than another, all remove the same channels."""
    network, other = make(), make()
    prune(network, Pruning(), Budget(keep=0.6))
    # What this rank measures is ten times as much, and it hears the truth from the first one.
    costly = Budget(keep=0.6)
    object.__setattr__(costly, "cost", lambda measured: 10 * Budget().cost(measured))
    prune(other, Pruning(), costly, agree=lambda cost: cost / 10)
    assert network.widths == other.widths


def rdsr() -> SRNetwork:
    torch.manual_seed(0)
    return RDSR.build(
        RDSRConfig(
            prior_channels=8,
            prior_encoder=PriorEncoderConfig(channels=8, num_blocks=1),
            decoder=DecoderConfig(channels=16, num_convs=2),
        )
    )


def test_modulated_layers_are_narrowed_with_what_modulates_them() -> None:
    network = rdsr()
    prune(network, Pruning(networks=["decoder"]), Budget(keep=0.6))
    widths = widths_of(network)
    for number in range(2):
        channels = widths[f"decoder.body.{number}.conv"][1]
        assert widths[f"decoder.body.{number}.modulation"] == [8, 2 * channels]
    assert not any(name.startswith(("lr_encoder", "denoiser")) for name in network.widths)
    assert network.eval()(images()).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    "networks", [["decoder"], pytest.param([], marks=pytest.mark.slow, id="all")]
)
def test_a_diffusion_network_can_be_narrowed(networks: list[str]) -> None:
    config = load_config([f"recipe={SMALL}"])
    network = load_system("edge_sd_sr").build(config.networks)
    done = prune(network, Pruning(networks, round_to=1, max_removed=0.5), Budget(keep=0.9))
    assert "GMACs" in done
    assert network.eval()(images()).shape == (2, 3, 64, 64)
    rebuilt = load_system("edge_sd_sr").build(
        type(config.networks)(**vars(config.networks) | {"widths": dict(network.widths)})
    )
    rebuilt.load_state_dict(network.state_dict())


def test_group_norms_stay_balanced() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 3, 3)
            )

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layers(x)
            return y

    block = Block()
    calls = Calls((images(),), {})
    (found,) = find_channels(block, calls, "l1", 0)
    assert found.units == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(
    ("pruning", "budget", "words"),
    [
        ({"networks": ["decoder"]}, {}, "networks is 'decoder': use one of generator"),
        ({"importance": "l3"}, {}, "importance is 'l3': use one of lamp"),
        ({"scope": "local"}, {}, "scope is 'local'"),
        ({"round_to": 0}, {}, "round_to must be at least 1"),
        ({"max_removed": 1.0}, {}, "max_removed must be above 0 and below 1"),
        ({}, {"keep": 0.01}, "cannot be brought down to 0.00"),
        ({}, {"keep": 1.0}, "keep is the share that remains"),
        ({}, {"measure": "watts"}, "measure is 'watts'"),
        ({}, {"measure": "parameters", "at_most": 10.0}, "cannot be brought down to 10 parameters"),
    ],
)
def test_what_cannot_be_done_is_refused(
    pruning: dict[str, object], budget: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        prune(make(), Pruning(**pruning), Budget(**budget))  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(ValueError, match="dependencies of SeparableGenerator cannot be found"):
        prune(make("fourier"), Pruning(), Budget())
