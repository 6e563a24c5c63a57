import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipelines.config.load import load_config
from srmodels.edge_sd_sr.autoencoder import Decoder
from srmodels.edge_sd_sr.config import (
    ConditioningConfig,
    DecoderConfig,
    EdgeSDSRConfig,
    UNetConfig,
)
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.tiling import Tiling
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
    with pytest.raises(ValueError, match=r"1 tensors differ, for example decoder\.layers\.0\.bias"):
        other.load_inference_state_dict(
            {n: w for n, w in weights.items() if n != "decoder.layers.0.bias"}
        )


def test_no_recomputed_module_lies_inside_another(network: EdgeSDSR) -> None:
    modules = network.checkpointed_modules()
    assert {type(m).__name__ for m in modules} == {"ResBlock", "ResnetBlock", "SpatialTransformer"}
    assert len({id(m) for outer in modules for m in outer.modules()}) == sum(
        len(list(outer.modules())) for outer in modules
    )


FORWARD = {
    "none": ("constant",),
    "additive": ("learned", "constant", "zero"),
    "resshift": ("learned", "constant", "zero"),
}
SWITCHES = [(forward, variance) for forward, known in FORWARD.items() for variance in known]


def network_with(forward: str, variance: str, prediction: str = "residual") -> EdgeSDSR:
    torch.manual_seed(0)
    conditioning = f"networks.conditioning.forward={forward}", "networks.conditioning.variance="
    settings = [conditioning[0], conditioning[1] + variance, f"networks.prediction={prediction}"]
    network = EdgeSDSR(load_config([f"recipe={SMALL}", *settings]).networks).eval()
    # Zero at the start of training: give the UNet something to say.
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    return network


@pytest.mark.parametrize(("forward", "variance"), SWITCHES)
def test_inference_starts_where_the_switches_say(forward: str, variance: str) -> None:
    network = network_with(forward, variance)
    x_l = torch.rand(2, 3, 16, 16)
    noise = torch.randn(2, network.config.latent_channels, 8, 8)
    seen: list[Tensor] = []
    network.unet.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    network.one_step_latent(x_l, noise)
    z_l, log_variance = network.lr_encoder(x_l)
    deviation = {
        "zero": torch.zeros(()), "constant": torch.tensor(0.5), "learned": (log_variance / 2).exp()
    }[variance]  # fmt: skip
    alpha, sigma = 0.00466**0.5, (1 - 0.00466) ** 0.5
    z_t = {
        "none": alpha * z_l + sigma * deviation * noise,
        "additive": alpha * z_l + sigma * (z_l + deviation * noise),
        "resshift": z_l + 2.0 * 0.999**0.5 * deviation * noise,
    }[forward]
    expected, timesteps = torch.cat([z_t.expand_as(z_l), z_l], dim=1), seen[1]
    assert torch.allclose(seen[0], expected, atol=1e-4)
    assert timesteps.tolist() == [999, 999]


@pytest.mark.parametrize("prediction", ["residual", "z_h", "v", "epsilon"])
def test_the_latent_is_what_the_prediction_makes_of_the_unets_output(prediction: str) -> None:
    network = network_with("additive", "learned", prediction)
    x_l = torch.rand(1, 3, 16, 16)
    noise = torch.randn(1, network.config.latent_channels, 8, 8)
    said: list[Tensor] = []
    network.unet.register_forward_hook(lambda module, inputs, output: said.append(output))
    found = network.one_step_latent(x_l, noise)
    z_l, log_variance = network.lr_encoder(x_l)
    alpha, sigma = 0.00466**0.5, (1 - 0.00466) ** 0.5
    z_t = alpha * z_l + sigma * (z_l + (log_variance / 2).exp() * noise)
    expected = {
        "residual": z_l + said[0],
        "z_h": said[0],
        "v": alpha * z_t - sigma * said[0],
        "epsilon": (z_t - sigma * z_l - sigma * said[0]) / alpha,
    }[prediction]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_without_noise_inference_starts_at_the_mean() -> None:
    settings = ("zero_terminal_snr=true", "inference_noise=false")
    torch.manual_seed(0)
    conditioning = [f"networks.conditioning.{setting}" for setting in settings]
    network = EdgeSDSR(load_config([f"recipe={SMALL}", *conditioning]).networks).eval()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    seen: list[Tensor] = []
    network.unet.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    x_l = torch.rand(1, 3, 32, 32)
    assert network.inference_noise(x_l) is None
    x = network(x_l)
    z_l, _ = network.lr_encoder(x_l)
    assert torch.equal(seen[0], torch.cat([z_l, z_l], dim=1))
    # Its norms and its attention see a whole tile, so its size still matters.
    assert torch.equal(network.for_tile(32)(x_l), x)
    assert network.tiling(32) == Tiling.for_tile(32)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_decoder_sees_the_lr_image_at_its_resolution(scale: int) -> None:
    levels = {8: 1, 4: 2, 2: 3}[scale]
    config = DecoderConfig([8, 6, 4][:levels], [1] * levels, lr_skip=True)
    torch.manual_seed(0)
    decoder = Decoder(config, 4, scale)
    z, x_l = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64 // scale, 64 // scale)
    with torch.no_grad():
        decoder.layers[-1].weight.normal_(std=0.1)
        found = decoder(z, x_l)
        assert found.shape == (1, 3, 64, 64)
        assert not torch.allclose(found, decoder(z, 1 - x_l), atol=1e-3)
        decoder.lr_skip.weight.zero_()
        assert decoder.lr_skip.bias is not None
        decoder.lr_skip.bias.zero_()
        assert torch.allclose(decoder(z, x_l), decoder(z, 1 - x_l))
        plain = Decoder(DecoderConfig(config.channels, config.num_blocks), 4, scale)
        weights = decoder.state_dict()
        plain.load_state_dict({n: w for n, w in weights.items() if not n.startswith("lr_skip.")})
        assert torch.allclose(plain(z, x_l), decoder(z, x_l), atol=1e-6)


@pytest.mark.parametrize(("recipe", "gmacs"), [("edge_sd_sr", 142), ("edge_sd_sr_lite", 71)])
def test_the_full_size_has_the_papers_parameters_and_operations(recipe: str, gmacs: float) -> None:
    """169 M parameters and 142 GFLOPs for 128 to 512 px, a multiply-add counted as one or as two
    (counted here from the meta device by torch alone)."""
    with torch.device("meta"):
        network = EdgeSDSR(load_config([f"recipe={recipe}"]).networks)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 128, 128), torch.empty(1, 4, 64, 64))
    shipped = sum(p.numel() for m in network.inference_modules().values() for p in m.parameters())
    assert shipped == pytest.approx(169e6, rel=0.01)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 3}, r"networks.scale is 3: use one of 2, 4, 8"),
        ({"latent_of": "wavelet"}, "networks.latent_of"),
        ({"unet": UNetConfig(channels=[60])}, "must be a multiple of networks.unet.num_groups"),
        ({"unet": UNetConfig(attention_levels=[7])}, "names level 7"),
        ({"prediction": "x"}, r"networks.prediction is 'x': use one of residual, z_h, v, epsilon"),
        ({"conditioning": ConditioningConfig("sideways")}, "networks.conditioning.forward"),
        ({"conditioning": ConditioningConfig(variance="big")}, "networks.conditioning.variance"),
        ({"conditioning": ConditioningConfig("none")}, "forward=none does not ask"),
        ({"conditioning": ConditioningConfig("none", "zero")}, "variance=zero leaves none"),
        (
            {"conditioning": ConditioningConfig(constant_variance=-1.0)},
            r"networks.conditioning.constant_variance must be greater than 0, not -1.0",
        ),
        (
            {"conditioning": ConditioningConfig("resshift"), "prediction": "epsilon"},
            "a thousandth of it left",
        ),
        ({"conditioning": ConditioningConfig("resshift"), "prediction": "v"}, "share the variance"),
        (
            {
                "conditioning": ConditioningConfig(zero_terminal_snr=True),
                "prediction": "epsilon",
            },
            "leaves nothing of it: set another prediction",
        ),
        (
            {"decoder": DecoderConfig([8], [1], lr_skip=True)},
            "set at least 2 networks.decoder.channels for networks.scale=4",
        ),
        (
            {"conditioning": ConditioningConfig(variance="zero"), "prediction": "epsilon"},
            "nothing to predict",
        ),
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeSDSRConfig(**change)  # type: ignore[arg-type]
