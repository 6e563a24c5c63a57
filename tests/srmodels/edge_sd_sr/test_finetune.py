"""The decoder's finetuning: each loss does what the recipe says, and by turns."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.config.load import load_config
from pipelines.errors import UserError
from srmodels.edge_sd_sr.finetune import DecoderStage, grid_error
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.layers import hinge_discriminator_loss, hinge_generator_loss
from tests.conftest import SMALL, needs_weights
from tests.support.stages import moved_by

CRITIC = "networks.discriminator={channels: 8, num_levels: 1}"


def make_stage(**options: object) -> DecoderStage:
    torch.manual_seed(0)
    network = EdgeSDSR(load_config([f"recipe={SMALL}", CRITIC]).networks)
    stage = DecoderStage(network, DecoderStage.Options(**options))  # type: ignore[arg-type]
    stage.load_pretrained()
    return stage


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_l = torch.rand(2, 3, 16, 16, generator=generator)
    return x_l, torch.rand(2, 3, 64, 64, generator=generator), torch.arange(2)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    needs_weights()
    stage = make_stage(
        l1_weight=2.0, lpips_weight=0.5, lpips_backbone="alex", adversarial_weight=0.1
    )
    losses = stage(*batch())
    expected = 2.0 * losses["l1"] + 0.5 * losses["lpips"] + 0.1 * losses["adversarial"]
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses["lpips"].item() > 0.1


def test_both_backbones_of_lpips_share_its_weight() -> None:
    needs_weights()
    one, both = (
        make_stage(lpips_weight=0.5, lpips_backbone=backbone)(*batch())
        for backbone in ("vgg", "both")
    )
    assert both["lpips_vgg"].item() == pytest.approx(one["lpips"].item())
    expected = both["l1"] + 0.25 * (both["lpips_alex"] + both["lpips_vgg"])
    assert both["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert both["lpips_alex"].item() != pytest.approx(both["lpips_vgg"].item(), rel=0.01)


def test_the_grid_error_is_what_repeats_from_block_to_block() -> None:
    pattern = torch.zeros(8, 8)
    pattern[2, 5] = 0.64
    grid = pattern.repeat(8, 8).expand(2, 3, 64, 64)
    assert grid_error(grid).item() == pytest.approx(0.64**2 / 64)
    # Noise of the same energy does not repeat: its average over 16 blocks has a sixteenth of it.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, 64, 64, generator=generator) * (0.64 / 8)
    assert grid_error(noise).item() == pytest.approx(0.64**2 / 64 / 16, rel=0.1)
    assert grid_error(torch.zeros(1, 3, 8, 8)).item() == 0  # a picture of one block has one too
    stage = make_stage(grid_weight=50.0)
    losses = stage(*batch())
    assert losses["loss"].item() == pytest.approx((losses["l1"] + 50 * losses["grid"]).item())
    assert losses["grid"].item() > 0


def test_both_parts_see_the_same_picture() -> None:
    stage = make_stage(adversarial_weight=0.1)
    decoder, critic = stage.turns().values()
    assert decoder is stage
    x_l, x_h, seeds = batch()
    seen: list[torch.Tensor] = []
    discriminator = stage.network.discriminator
    assert discriminator is not None
    discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    generator_losses, critic_losses = decoder(x_l, x_h, seeds), critic(x_l, x_h, seeds)
    made, real, fake = seen
    assert torch.equal(made, fake)
    assert torch.equal(real, x_h)
    assert not fake.requires_grad
    assert generator_losses["l1"].item() == pytest.approx(F.l1_loss(made, x_h).item())
    scores = discriminator(x_h), discriminator(fake)
    assert generator_losses["adversarial"].item() == hinge_generator_loss(scores[1]).item()
    assert critic_losses["loss"].item() == hinge_discriminator_loss(*scores).item()


def test_each_part_moves_its_own_weights_alone() -> None:
    stage = make_stage(adversarial_weight=0.1)
    for name in stage.turns():
        assert moved_by(stage, name, batch()) == {name}


def test_the_discriminator_has_no_word_before_its_start() -> None:
    stage = make_stage(adversarial_weight=0.1, adversarial_start=5)
    stage.step = 4
    before = stage(*batch())
    assert before["loss"].item() == before["l1"].item()
    stage.step = 5
    after = stage(*batch())
    assert after.keys() == before.keys()
    expected = after["l1"] + 0.1 * after["adversarial"]
    assert after["loss"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("turn", ["decoder", "discriminator"])
def test_a_samples_loss_does_not_depend_on_the_others(turn: str) -> None:
    stage = make_stage(adversarial_weight=0.1).turns()[turn]
    x_l, x_h, seeds = batch()
    together = stage(x_l, x_h, seeds)["loss"].item()
    alone = [stage(x_l[i : i + 1], x_h[i : i + 1], seeds[i : i + 1])["loss"] for i in range(2)]
    assert together == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("lpips_backbone=resnet", "lpips_backbone is 'resnet': use alex, vgg or both"),
        ("adversarial_start=-1", "adversarial_start must be at least 0, not -1"),
        ("l1_weight=-1", "l1_weight must be at least 0"),
    ],
)
def test_impossible_options_are_refused(option: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"stages\.decoder\.options: {message}"):
        load_config([f"recipe={SMALL}", f"stages.decoder.options.{option}"])


def test_an_adversarial_stage_cannot_have_its_weights_shared_out() -> None:
    settings = [f"recipe={SMALL}", CRITIC, "stages.decoder.options.adversarial_weight=0.1"]
    with pytest.raises(
        UserError, match=r"decoder\.train\.zero_stage must be 2 or less: the stage "
    ):
        load_config([*settings, "train.zero_stage=3"])


def test_an_adversarial_loss_needs_a_discriminator() -> None:
    settings = [f"recipe={SMALL}", "stages.decoder.options.adversarial_weight=0.1"]
    with pytest.raises(
        UserError,
        match=r"stages.decoder.options: adversarial_weight needs a discriminator: set networks",
    ):
        load_config(settings)
    assert load_config([*settings, CRITIC]).stages["decoder"].options.adversarial_weight == 0.1
