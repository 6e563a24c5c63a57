import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.config import load_config
from srmodels.edge_sd_sr.config import EdgeSDSRConfig, UNetConfig
from srmodels.edge_sd_sr.network import EdgeSDSR
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def network() -> EdgeSDSR:
    torch.manual_seed(0)
    return EdgeSDSR(load_config([f"recipe={SMALL}"]).networks).eval()


def test_one_step_inference_enlarges_four_times_into_the_unit_range(network: EdgeSDSR) -> None:
    x_l = torch.rand(2, 3, 24, 32)
    x = network(x_l)
    assert x.shape == (2, 3, 96, 128)
    assert x.min() >= 0
    assert x.max() <= 1


def test_inference_is_the_same_every_time_and_for_every_place_in_a_batch(
    network: EdgeSDSR,
) -> None:
    x_l = torch.rand(2, 3, 16, 16)
    assert torch.equal(network(x_l), network(x_l))
    assert torch.allclose(network(x_l)[1:], network(x_l[1:]), atol=1e-6)


def test_coding_and_decoding_are_inverse(network: EdgeSDSR) -> None:
    x_l, x_h = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)
    assert torch.allclose(network.from_coded(network.to_coded(x_h, x_l), x_l), x_h, atol=1e-6)


def test_shipped_weights_leave_the_hr_encoder_behind_and_load_again(network: EdgeSDSR) -> None:
    weights = network.inference_state_dict()
    assert weights
    assert not any(name.startswith("hr_encoder") for name in weights)
    torch.manual_seed(1)
    other = EdgeSDSR(network.config).eval()
    x_l = torch.rand(1, 3, 16, 16)
    assert not torch.equal(other(x_l), network(x_l))
    other.load_inference_state_dict(weights)
    assert torch.equal(other(x_l), network(x_l))
    with pytest.raises(ValueError, match=r"1 tensors differ, for example decoder\.out\.0\.bias"):
        other.load_inference_state_dict(
            {n: w for n, w in weights.items() if n != "decoder.out.0.bias"}
        )


def test_no_recomputed_module_lies_inside_another(network: EdgeSDSR) -> None:
    modules = network.checkpointed_modules()
    assert {type(m).__name__ for m in modules} == {"ResBlock", "ResnetBlock", "SpatialTransformer"}
    assert len({id(m) for outer in modules for m in outer.modules()}) == sum(
        len(list(outer.modules())) for outer in modules
    )


def test_the_full_size_is_the_same_code_with_other_numbers() -> None:
    """The paper states about 169 M parameters; 163.3 M of them are the UNet's in the
    configuration that fits, at 70 GMACs on a 64x64 latent."""
    with torch.device("meta"):
        network = EdgeSDSR(EdgeSDSRConfig())
        shipped = {
            name: sum(p.numel() for p in module.parameters())
            for name, module in network.inference_modules().items()
        }
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 128, 128), torch.empty(1, 4, 64, 64))
    assert sum(shipped.values()) == pytest.approx(169e6, rel=0.01)
    assert shipped["unet"] == pytest.approx(163.3e6, rel=0.001)
    gmacs = counter.get_flop_counts()["EdgeSDSR.unet"]
    assert sum(gmacs.values()) / 2e9 == pytest.approx(70.0, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 3}, r"networks.scale is 3: use one of 2, 4, 8"),
        ({"latent_of": "wavelet"}, "networks.latent_of"),
        ({"unet": UNetConfig(channels=[60])}, "must be a multiple of networks.unet.num_groups"),
        ({"unet": UNetConfig(attention_levels=[7])}, "names level 7"),
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeSDSRConfig(**change)  # type: ignore[arg-type]
