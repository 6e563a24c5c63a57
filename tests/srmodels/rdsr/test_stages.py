"""Tests the networks that each stage trains, and the inputs that it trains them from."""

import pytest
import torch

from srmodels.layers import DiscriminatorConfig
from srmodels.rdsr.config import DecoderConfig, PriorEncoderConfig, RDSRConfig
from srmodels.rdsr.network import RDSR
from srmodels.rdsr.stages import DiffusionStage, PerceptualFinetuning, PriorStage
from srmodels.stage import Stage, train_only

X_H = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
X_L = torch.nn.functional.avg_pool2d(X_H, 4)
SEEDS = torch.arange(4)


def stage_of(kind: type[Stage], prior: str = "diffused", **options: object) -> Stage:
    torch.manual_seed(0)
    config = RDSRConfig(
        prior=prior,
        prior_channels=8,
        prior_encoder=PriorEncoderConfig(4, 1),
        decoder=DecoderConfig(8, 2),
        discriminator=DiscriminatorConfig(4, 1) if kind is PerceptualFinetuning else None,
    )
    return kind(RDSR(config), kind.Options(**options)).train()


@pytest.mark.parametrize(
    ("kind", "prior", "trained"),
    [
        (PriorStage, "diffused", {"hr_encoder", "decoder"}),
        (PriorStage, "none", {"decoder"}),
        (DiffusionStage, "diffused", {"lr_encoder", "denoiser", "decoder"}),
        (DiffusionStage, "regressed", {"lr_encoder", "decoder"}),
    ],
)
def test_what_a_stage_trains_gets_gradients_and_nothing_else(
    kind: type[Stage], prior: str, trained: set[str]
) -> None:
    stage = stage_of(kind, prior)
    stage(X_L, X_H, SEEDS)["loss"].backward()
    moved = {name.partition(".")[0] for name, p in stage.network.named_parameters() if
             p.grad is not None and p.grad.abs().max() > 0}  # fmt: skip
    assert moved == trained
    assert stage.previews_inference == (kind is DiffusionStage or prior == "none")


@pytest.mark.parametrize(
    ("kind", "prior"),
    [(PriorStage, "none"), (PriorStage, "diffused"), (DiffusionStage, "diffused")],
)
def test_it_learns_a_batch(kind: type[Stage], prior: str) -> None:
    stage = stage_of(kind, prior)
    optimizer = torch.optim.Adam(stage.trained_parameters(), 2e-3)
    losses = []
    for _ in range(60):
        losses.append(stage(X_L, X_H, SEEDS)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert stage.preview(X_L, X_H).shape == X_H.shape


def test_the_reverse_process_starts_from_each_samples_own_noise() -> None:
    stage = stage_of(DiffusionStage)
    whole = stage(X_L, X_H, SEEDS)
    parts = [stage(X_L[i : i + 1], X_H[i : i + 1], SEEDS[i : i + 1]) for i in range(4)]
    for name in ("loss", "l1", "distillation"):
        assert torch.isclose(whole[name], torch.stack([part[name] for part in parts]).mean())
    assert stage(X_L, X_H, SEEDS + 9)["loss"] != whole["loss"]


def test_the_weight_of_the_distillation_is_the_recipes() -> None:
    losses = stage_of(DiffusionStage, distillation_weight=3.0)(X_L, X_H, SEEDS)
    assert torch.isclose(losses["loss"], losses["l1"] + 3 * losses["distillation"])


@pytest.mark.parametrize("prior", ["none", "regressed", "diffused"])
def test_what_looks_right_is_trained_by_turns(prior: str) -> None:
    stage = stage_of(PerceptualFinetuning, prior, adversarial_weight=0.1)
    turns = stage.turns()
    assert list(turns) == ["generator", "discriminator"]
    shipped = set(stage.network.inference_modules())
    for name, turn in turns.items():
        train_only(turn, turns.values())
        losses = turn(X_L, X_H, SEEDS)
        losses["loss"].backward()
        moved = {n.partition(".")[0] for n, p in stage.network.named_parameters() if p.grad is not
                 None and p.grad.abs().max() > 0}  # fmt: skip
        assert moved == (shipped if name == "generator" else {"discriminator"})
        stage.network.zero_grad()
    assert set(stage(X_L, X_H, SEEDS)) == {"loss", "l1", "adversarial"}


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="distillation_weight must be at least 0"):
        stage_of(DiffusionStage, distillation_weight=-1.0)
    with pytest.raises(ValueError, match=r"networks\.prior=none there is no prior to learn"):
        stage_of(DiffusionStage, "none")
    with pytest.raises(ValueError, match="without a perceptual loss is the stage before"):
        stage_of(PerceptualFinetuning)
