"""Reparameterised convolutions: what is fused is what was trained, to the border."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from srmodels.layers import CONVOLUTIONS, ReparameterisedConv, fuse, make_conv, start_near_identity
from srmodels.layers.reparameterised import ECBConv, RepVGGConv

KINDS = {"repvgg": RepVGGConv, "ecb": ECBConv}


def shaken(conv: ReparameterisedConv, generator: torch.Generator) -> ReparameterisedConv:
    """Returns the convolution with random weights and statistics."""
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for module in conv.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                count = module.num_features
                module.running_mean.copy_(torch.randn(count, generator=generator))
                module.running_var.copy_(torch.rand(count, generator=generator) * 10 + 1e-3)
    return conv.eval()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    same=st.booleans(),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    size=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    identity=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_fused_is_the_sum_of_the_branches(
    kind: str,
    channels: tuple[int, int],
    same: bool,
    stride: int,
    padding: int,
    size: tuple[int, int],
    identity: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    channels = (channels[0], channels[0]) if same else channels
    conv = shaken(KINDS[kind](*channels, stride, padding, identity), generator)
    # Enough of them that the standard deviation is not small by chance.
    x = torch.randn(32, channels[0], *size, generator=generator)
    with torch.no_grad():
        expected = torch.stack([branch.double() for branch in conv.branches(x)]).sum(0)
        fused = conv.fused()
        bound = 1e-4 * expected.std()
        assert fused(x).shape == conv(x).shape == expected.shape
        assert (fused(x) - expected).abs().max() <= bound
        assert (conv(x) - expected).abs().max() <= bound
        assert conv.fused().weight.dtype == torch.float32


def test_branches_become_the_convolution_that_they_were_fused_into() -> None:
    generator = torch.Generator().manual_seed(0)
    fused = shaken(ECBConv(4, 4), generator).fused()
    conv = shaken(ECBConv(4, 4), generator)
    before = {name: weight.clone() for name, weight in conv.state_dict().items()}
    assert fused.bias is not None
    conv.become(fused.weight, fused.bias)
    x = torch.randn(2, 4, 6, 6, generator=generator)
    with torch.no_grad():
        assert torch.allclose(conv(x), fused(x), atol=1e-3 * float(fused(x).std()))
    changed = {n for n, weight in conv.state_dict().items() if not torch.equal(weight, before[n])}
    assert changed == {"conv3.weight", "conv3.bias"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_branch_counts_and_there_are_as_many_as_the_papers_have(kind: str) -> None:
    conv = shaken(KINDS[kind](4, 4), torch.Generator().manual_seed(0))
    branches = conv.branches(torch.ones(1, 4, 6, 6))
    assert len(branches) == {"repvgg": 3, "ecb": 6}[kind]
    assert all(branch.abs().max() > 1e-3 for branch in branches)
    assert len(KINDS[kind](4, 8).branches(torch.ones(1, 4, 6, 6))) == len(branches) - 1
    assert len(KINDS[kind](4, 4, identity=False).branches(torch.ones(1, 4, 6, 6))) == (
        len(branches) - 1
    )


def test_between_1x1_and_3x3_the_border_is_the_bias() -> None:
    """Zeros there would be another function, at the border alone."""
    conv = shaken(ECBConv(3, 3), torch.Generator().manual_seed(1))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        zeros = conv.conv3(nn.functional.pad(x, [1] * 4)) + x
        expanded = nn.functional.pad(conv.expand(x), [1] * 4)
        zeros += conv.squeeze(expanded)
        for edge in conv.edges:
            padded = nn.functional.pad(edge.conv1(x), [1] * 4)
            masks = edge.gain[:, None, None, None] * edge.mask
            zeros += nn.functional.conv2d(padded, masks, edge.bias, groups=3)
        difference = (conv(x) - zeros).abs()
    assert difference[:, :, 1:-1, 1:-1].max() < 1e-4
    assert difference.max() > 0.1


def test_repvgg_is_trained_with_the_statistics_of_the_batch() -> None:
    conv = RepVGGConv(4, 4)
    x = 3 * torch.randn(4, 4, 8, 8) + 2
    before = copy.deepcopy(conv.norm3.running_mean)
    assert torch.isclose(conv(x).mean(), torch.tensor(0.0), atol=1e-3)
    assert not torch.equal(before, conv.norm3.running_mean)


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.head = make_conv(kind, 3, 8)
        self.body = nn.Sequential(make_conv(kind, 8, 8), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(self.head(x))
        return y


@pytest.mark.parametrize(("kind", "count"), [("plain", 0), ("repvgg", 2), ("ecb", 2)])
def test_networks_are_fused_in_place_and_all_kinds_cost_the_same(kind: str, count: int) -> None:
    torch.manual_seed(0)
    network, x = Net(kind).eval(), torch.randn(1, 3, 8, 8)
    expected = network(x)
    assert fuse(network) == count
    assert torch.allclose(network(x), expected, atol=1e-5)
    assert fuse(network) == 0
    assert sum(p.numel() for p in network.parameters()) == (3 * 9 + 1 + 8 * 9 + 1) * 8 + 27


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_stack_begins_as_nearly_nothing(kind: str) -> None:
    torch.manual_seed(0)
    conv, x = make_conv(kind, 8, 8), torch.randn(4, 8, 16, 16)
    far = (conv(x) - x).std()
    start_near_identity(conv)
    assert (conv(x) - x).std() < 0.3 < far


def test_there_is_no_other_kind() -> None:
    with pytest.raises(ValueError, match="no convolution 'acb': use plain, repvgg, ecb"):
        make_conv("acb", 3, 3)
