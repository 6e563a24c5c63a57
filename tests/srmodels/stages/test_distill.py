import pytest
import torch
from torch import Tensor, nn

from srmodels.stages.distill import DistillStage
from srmodels.stages.pixel import PixelStage
from tests.srmodels.stages.test_pixel import crops, networks


class Answer(nn.Module):
    """Answers with one and the same image."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, x_l: Tensor) -> Tensor:
        return self.image


def make_stage(told: Tensor, weight: float, **options: float) -> DistillStage:
    stage = DistillStage(networks()[1], DistillStage.Options(teacher_weight=weight, **options))
    stage.learn_from(Answer(told))
    return stage


def test_the_loss_is_shared_between_the_teacher_and_the_truth() -> None:
    x_l, x_h, seeds = crops()
    told = x_h.flip(-1)
    stage = make_stage(told, 0.25, l1_weight=2.0, l2_weight=1.0)
    losses, x = stage(x_l, x_h, seeds), stage.network(x_l)
    assert losses.keys() == {"loss", "l1", "l2", "taught_l1", "taught_l2"}
    assert losses["l1"].item() == pytest.approx((x - x_h).abs().mean().item())
    assert losses["taught_l1"].item() == pytest.approx((x - told).abs().mean().item())
    of_truth = 2 * losses["l1"] + losses["l2"]
    of_teacher = 2 * losses["taught_l1"] + losses["taught_l2"]
    assert losses["loss"].item() == pytest.approx((0.75 * of_truth + 0.25 * of_teacher).item())


def test_the_network_comes_closer_to_its_teacher() -> None:
    """A teacher that answers with x_h's mirror image is followed, although x_h says otherwise."""
    x_l, x_h, seeds = crops()
    stage = make_stage(x_h.flip(-1), 1.0).train()
    optimizer = torch.optim.Adam(stage.trained_parameters(), lr=1e-3)
    taught = []
    for _ in range(12):
        optimizer.zero_grad()
        losses = stage(x_l, x_h, seeds)
        losses["loss"].backward()
        optimizer.step()
        taught.append(losses["taught_l1"].item())
    assert taught[-1] < 0.97 * taught[0]


def test_no_gradient_reaches_the_teacher() -> None:
    x_l, x_h, seeds = crops()
    stage, teacher = make_stage(x_h, 0.5), networks()[1]
    stage.learn_from(teacher)
    stage(x_l, x_h, seeds)["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in stage.parameters()}


@pytest.mark.parametrize("weight", [0.0, -0.5, 1.5])
def test_a_share_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="teacher_weight must be above 0 and at most 1"):
        DistillStage(networks()[1], DistillStage.Options(teacher_weight=weight))


def test_it_trains_what_a_pixel_stage_trains() -> None:
    network = networks()[0]
    ours, theirs = (
        {
            name
            for name, p in cls(network, cls.Options()).network.named_parameters()
            if p.requires_grad
        }
        for cls in (DistillStage, PixelStage)
    )
    assert ours == theirs
