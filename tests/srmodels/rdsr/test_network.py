"""RDSR: its size, its inference, and what is left of it once it is fused."""

import copy
from pathlib import Path

import pytest
import torch

from pipelines.config.load import load_config
from srmodels.edge.onnx import OnnxFp32, OnnxFp32Dynamic
from srmodels.edge.target import ExportSettings, check_parity
from srmodels.layers import DiscriminatorConfig
from srmodels.rdsr.config import DecoderConfig, PriorEncoderConfig, RDSRConfig
from srmodels.rdsr.network import RDSR
from srmodels.rdsr.stages import PriorStage
from tests.conftest import ROOT

SMALL = {
    "prior_channels": 8,
    "prior_encoder": PriorEncoderConfig(4, 1),
    "decoder": DecoderConfig(8, 3),
}


def small(**changes: object) -> RDSR:
    torch.manual_seed(0)
    return RDSR(RDSRConfig(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


def num_shipped(network: RDSR) -> int:
    return sum(p.numel() for m in network.inference_modules().values() for p in m.parameters())


def test_the_recipe_has_the_papers_size() -> None:
    """RDSR-2.2M, to 3 %."""
    with torch.device("meta"):
        network = RDSR(load_config(["recipe=rdsr"]).networks)
        assert abs(num_shipped(network.fuse()) / 2.2e6 - 1) < 0.03


@pytest.mark.parametrize("prior", ["none", "regressed", "diffused"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_enlarges_into_the_unit_range(prior: str, scale: int) -> None:
    network = small(prior=prior, scale=scale)
    multiple = network.size_multiple
    x_l = torch.rand(2, 3, 2 * multiple, 3 * multiple)
    x = network(x_l)
    assert x.shape == (2, 3, scale * 2 * multiple, scale * 3 * multiple)
    assert 0 <= x.min() <= x.max() <= 1
    assert torch.equal(x, network(x_l))
    assert torch.allclose(x[1:], network(x_l[1:]), atol=1e-6)


def test_the_prior_steers_every_modulated_convolution() -> None:
    network, x = small(), torch.rand(1, 8, 8, 8)
    priors = torch.zeros(1, 8), torch.full((1, 8), 5.0)
    for layer in network.decoder.body:
        one, other = (layer(x, prior) for prior in priors)
        assert not torch.allclose(one, other, atol=1e-3)
    every_other = small(decoder=DecoderConfig(8, 3, modulate_every=2))
    modulated = [layer.modulation is not None for layer in every_other.decoder.body]
    assert modulated == [True, False, True]
    assert num_shipped(every_other) < num_shipped(network)


def test_the_oracle_sees_the_hr_image_and_inference_does_not() -> None:
    network, x_l = small(), torch.rand(1, 3, 8, 8)
    images = torch.rand(2, 1, 3, 32, 32)
    assert not torch.equal(*(network.oracle_prior(x_l, x_h) for x_h in images))
    assert set(network.inference_modules()) == {"lr_encoder", "denoiser", "decoder"}
    assert set(small(prior="none").inference_modules()) == {"decoder"}
    assert small(prior="none").oracle_prior(x_l, images[0]) is None


@pytest.mark.parametrize("conv", ["plain", "repvgg", "ecb"])
def test_fused_it_is_the_same_and_a_stack_of_plain_convolutions(conv: str) -> None:
    network = small(decoder=DecoderConfig(8, 3, conv))
    x_l, trained = torch.rand(2, 3, 12, 8), copy.deepcopy(network)
    expected = network(x_l)
    fused = network.fuse()
    assert fused is network
    assert torch.allclose(fused(x_l), expected, atol=1e-5)
    assert fused.fused == (conv != "plain")
    assert num_shipped(fused) == num_shipped(small(decoder=DecoderConfig(8, 3, "plain")))
    again = small(decoder=DecoderConfig(8, 3, conv)).fuse()
    again.load_inference_state_dict(fused.inference_state_dict())
    assert torch.equal(again(x_l), fused(x_l))
    if fused.fused:
        with pytest.raises(ValueError, match="fused for inference, which cannot be undone"):
            fused.train()
        with pytest.raises(ValueError, match="fused for inference, which cannot be undone"):
            PriorStage(fused, PriorStage.Options())
        with pytest.raises(ValueError, match="the weights do not fit the network"):
            trained.load_inference_state_dict(fused.inference_state_dict())


@pytest.mark.parametrize("conv", ["repvgg", "ecb"])
@pytest.mark.parametrize("seed", range(5))
def test_fused_a_network_that_learned_is_the_same(conv: str, seed: int) -> None:
    """The outputs differ by at most 1e-4 of their standard deviation."""
    network = small(decoder=DecoderConfig(8, 16, conv))
    torch.manual_seed(seed)
    for name, tensor in network.decoder.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) * 10 + 1e-2)
        elif name.endswith("running_mean"):
            tensor.copy_(torch.randn_like(tensor))
        elif tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))
    x_l, prior = torch.rand(2, 3, 12, 8), torch.randn(2, 8)
    with torch.no_grad():
        expected = network.decoder(x_l, prior)
        assert (network.fuse().decoder(x_l, prior) - expected).abs().max() <= 1e-4 * expected.std()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 5}, r"networks\.scale is 5: use one of 2, 3, 4, 8"),
        ({"prior": "oracle"}, r"networks\.prior is 'oracle': use one of none, regressed, diffused"),
        ({"num_timesteps": 0}, r"networks\.num_timesteps must be greater than 0, not 0"),
        ({"decoder": DecoderConfig(conv="acb")}, r"networks\.decoder\.conv is 'acb'"),
        ({"decoder": DecoderConfig(num_convs=0)}, r"networks\.decoder\.num_convs must be great"),
        (
            {"discriminator": DiscriminatorConfig(channels=0)},
            r"networks\.discriminator\.channels must be great",
        ),
        (
            {"prior_encoder": PriorEncoderConfig(num_blocks=-1)},
            r"prior_encoder\.num_blocks must be at least 0",
        ),
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RDSRConfig(**changes)  # type: ignore[arg-type]


def test_the_recipes_of_other_sizes_are_smaller_and_larger() -> None:
    sizes = {}
    for path in (ROOT / "pipelines" / "recipes").glob("rdsr*.yaml"):
        with torch.device("meta"):
            sizes[path.stem] = num_shipped(RDSR(load_config([f"recipe={path}"]).networks).fuse())
    assert sizes["rdsr_small"] < 0.5 * sizes["rdsr"] < sizes["rdsr"] < 0.7 * sizes["rdsr_large"]


def test_exported_it_is_the_same(tmp_path: Path) -> None:
    network, path = small().fuse(), tmp_path / "rdsr.onnx"
    OnnxFp32().export(network, path, ExportSettings(16))
    images = [torch.rand(1, 3, 16, 16) for _ in range(2)]
    assert check_parity(network, OnnxFp32().load(path), images).max_error < 1e-5


def test_exported_for_any_size_it_is_the_same_at_each(tmp_path: Path) -> None:
    network, path = small().fuse(), tmp_path / "rdsr.onnx"
    OnnxFp32Dynamic().export(network, path, ExportSettings(16))
    runner = OnnxFp32Dynamic().load(path)
    for size in ((16, 16), (24, 40), (64, 4)):
        assert check_parity(network, runner, [torch.rand(1, 3, *size)]).max_error < 1e-5
