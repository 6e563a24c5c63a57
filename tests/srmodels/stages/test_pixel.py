import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config
from srmodels.network import SRNetwork
from srmodels.stages.pixel import PixelStage, charbonnier_loss, fft_loss
from srmodels.system import load_system
from tests.conftest import ROOT, SMALL

RECIPES = (SMALL, ROOT / "tests" / "recipes" / "small_rdsr.yaml")
NAMES = ("l1", "charbonnier", "l2", "fft")


def networks() -> list[SRNetwork]:
    torch.manual_seed(0)
    configs = [load_config([f"recipe={recipe}"]) for recipe in RECIPES]
    return [load_system(config.system).build(config.networks) for config in configs]


def options(**weights: float) -> PixelStage.Options:
    values = {f"{name}_weight": weights.get(name, 0.0) for name in NAMES}
    return PixelStage.Options(**values)


def crops() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_h = torch.rand(2, 3, 64, 64, generator=generator)
    return x_h[..., ::4, ::4].contiguous(), x_h, torch.arange(2)


@pytest.mark.parametrize("number", [0, 1])
def test_all_that_ships_learns_and_nothing_else(number: int) -> None:
    network = networks()[number]
    stage = PixelStage(network, PixelStage.Options()).train()
    shipped = network.inference_modules()
    assert [group.name for group in stage.parameter_groups()] == list(shipped)
    stage(*crops())["loss"].backward()
    for name, module in shipped.items():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert any(gradient.abs().sum() > 0 for gradient in gradients), name
    others = {n for n, p in network.named_parameters() if n.partition(".")[0] not in shipped}
    assert others
    assert not any(p.requires_grad for n, p in network.named_parameters() if n in others)


def test_the_loss_falls() -> None:
    stage = PixelStage(networks()[1], options(charbonnier=1.0, fft=0.1)).train()
    optimizer = torch.optim.Adam(stage.trained_parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = stage(*crops())["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


def test_the_loss_is_the_weighted_sum_of_what_has_a_weight() -> None:
    stage = PixelStage(networks()[1], options(l1=2.0, l2=3.0)).train()
    x_l, x_h, seeds = crops()
    losses, x = stage(x_l, x_h, seeds), stage.network(x_l)
    assert losses.keys() == {"loss", "l1", "l2"}
    assert losses["l1"].item() == pytest.approx((x - x_h).abs().mean().item())
    assert losses["l2"].item() == pytest.approx((x - x_h).square().mean().item())
    expected = 2 * losses["l1"] + 3 * losses["l2"]
    assert losses["loss"].item() == pytest.approx(expected.item())


def test_charbonnier_is_l1_far_from_zero_and_eps_at_it() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert charbonnier_loss(x, x, 1e-3).item() == pytest.approx(1e-3)
    assert charbonnier_loss(x + 0.5, x, 1e-3).item() == pytest.approx(0.5, rel=1e-5)


def test_fft_loss_sees_one_frequency_where_it_is() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x_h = torch.cos(2 * torch.pi * torch.arange(8) / 8).expand(1, 1, 8, 8)
    # One coefficient of 4, of 8 x 5, each with a real and an imaginary part.
    assert fft_loss(x, x_h).item() == pytest.approx(4 / 80, rel=1e-5)
    assert fft_loss(x.bfloat16(), x_h.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r"all weights are 0, .*: set one of l1_weight, charbonnier_weight, "),
        ({"l1": 1.0, "fft": -0.1}, r"fft_weight must be at least 0, not -0.1"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelStage(networks()[1], options(**weights))


def test_an_eps_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="charbonnier_eps must be greater than 0"):
        PixelStage(networks()[1], PixelStage.Options(charbonnier_eps=0.0))


def test_a_network_of_another_scale_is_told() -> None:
    x_l, x_h, seeds = crops()
    stage = PixelStage(networks()[1], PixelStage.Options())
    with pytest.raises(ValueError, match=r"makes \[2, 3, 64, 64\] of x_l \[2, 3, 16, 16\], and"):
        stage(x_l, x_h[..., :32, :32], seeds)
