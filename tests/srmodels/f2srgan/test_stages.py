"""F2SRGAN's perceptual stage: its terms, its turns, and what it moves."""

import pytest
import torch
import torch.nn.functional as F

from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.network import F2SRGAN
from srmodels.f2srgan.stages import PerceptualStage, total_variation
from srmodels.layers import DiscriminatorConfig
from tests.support.stages import moved_by


def make_stage(**options: float) -> PerceptualStage:
    torch.manual_seed(0)
    critic = DiscriminatorConfig(channels=8, num_levels=1)
    network = F2SRGAN(F2SRGANConfig(channels=16, num_blocks=2, discriminator=critic)).train()
    stage = PerceptualStage(network, PerceptualStage.Options(**options))
    # In the place of published weights: whatever they are, they are compared.
    for weight in stage.features.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return stage


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_l = torch.rand(2, 3, 16, 16, generator=generator)
    return x_l, torch.rand(2, 3, 64, 64, generator=generator), torch.arange(2)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    stage = make_stage(adversarial_weight=0.5, features_weight=2.0, tv_weight=0.1, l1_weight=3.0)
    losses = stage(*batch())
    weights = {"adversarial": 0.5, "features": 2.0, "tv": 0.1, "l1": 3.0}
    expected = sum(weight * losses[name].item() for name, weight in weights.items())
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert all(losses[name].item() > 0 for name in weights)


def test_the_discriminator_is_relativistic() -> None:
    """It says how much more real x_h is than x; the generator wants the opposite."""
    stage, (x_l, x_h, seeds) = make_stage(), batch()
    generator, critic = stage.turns().values()
    x = stage.network.generator(x_l)
    real, fake = stage.discriminator(x_h), stage.discriminator(x)
    said = critic(x_l, x_h, seeds)["loss"]
    assert said.item() == pytest.approx(-F.logsigmoid(real - fake).mean().item(), rel=1e-5)
    wanted = generator(x_l, x_h, seeds)["adversarial"]
    assert wanted.item() == pytest.approx(-F.logsigmoid(fake - real).mean().item(), rel=1e-5)


def test_each_part_moves_its_own_weights_alone() -> None:
    stage = make_stage()
    for name in stage.turns():
        assert moved_by(stage, name, batch()) == {name}


@pytest.mark.parametrize("turn", ["generator", "discriminator"])
def test_a_samples_loss_does_not_depend_on_the_others(turn: str) -> None:
    stage = make_stage().turns()[turn]
    x_l, x_h, seeds = batch()
    together = stage(x_l, x_h, seeds)["loss"].item()
    alone = [stage(x_l[i : i + 1], x_h[i : i + 1], seeds[i : i + 1])["loss"] for i in range(2)]
    assert together == pytest.approx(torch.stack(alone).mean().item(), rel=1e-4)


def test_total_variation_is_that_of_neighbours() -> None:
    ramp = torch.arange(4.0).repeat(4, 1).expand(1, 3, 4, 4)
    assert total_variation(ramp).item() == 1
    assert total_variation(2 * ramp.transpose(2, 3)).item() == 4
    assert total_variation(torch.ones(1, 3, 4, 4)).item() == 0


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="tv_weight"):
        make_stage(tv_weight=-1.0)
    network = F2SRGAN(F2SRGANConfig(channels=16, num_blocks=2))
    with pytest.raises(ValueError, match=r"set networks\.discriminator, for example to"):
        PerceptualStage(network, PerceptualStage.Options())
