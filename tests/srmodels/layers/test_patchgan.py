import pytest
import torch

from srmodels.layers import PatchDiscriminator, hinge_discriminator_loss, hinge_generator_loss


def test_a_score_sees_a_patch_of_70_pixels() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8, num_levels=3)
    # Instance norm sees the whole image: without it, only the patch counts.
    for module in discriminator.layers:
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.rand(1, 3, 160, 160, requires_grad=True)
    scores = discriminator(x)
    assert scores.shape == (1, 1, 18, 18)
    scores[0, 0, 9, 9].backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(dim=0).nonzero()
    assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [70, 70]


def test_an_images_scores_do_not_depend_on_the_others() -> None:
    discriminator = PatchDiscriminator(8, num_levels=2)
    x = torch.rand(3, 3, 64, 64)
    assert torch.allclose(discriminator(x)[1:2], discriminator(x[1:2]), atol=1e-6)


def test_the_hinge_losses_follow_their_definition() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert hinge_generator_loss(fake).item() == pytest.approx(1.5)
