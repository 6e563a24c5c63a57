from itertools import product

import pytest
import torch

from pipelines.config.load import load_config
from srmodels.edge_sd_sr.diffusion import PREDICTIONS
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.edge_sd_sr.stages import teachers_view
from srmodels.edge_sd_sr.system import SYSTEM
from srmodels.randomness import per_sample_normal
from srmodels.stage import Stage
from tests.conftest import SMALL


def make_stage(name: str, **options: object) -> Stage:
    torch.manual_seed(0)
    network = EdgeSDSR(load_config([f"recipe={SMALL}", "networks.teacher=true"]).networks)
    assert network.teacher is not None
    torch.nn.init.normal_(network.teacher.unet.conv_out.weight, std=0.1)
    # Zero at the start of training: give the UNet something to say.
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    kind = SYSTEM.stages[name]
    return kind(network, kind.Options(**options))


def batch(size: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_l = torch.rand(size, 3, 16, 16, generator=generator)
    x_h = torch.rand(size, 3, 64, 64, generator=generator)
    return x_l, x_h, torch.arange(size) + 100


@pytest.mark.parametrize(
    ("name", "options", "trained"),
    [
        ("autoencoder", {}, {"hr_encoder", "decoder"}),
        ("autoencoder", {"train_encoder": False}, {"decoder"}),
        ("joint", {}, {"unet", "lr_encoder"}),
        ("teacher", {}, {"teacher"}),
        ("distillation", {}, {"unet", "lr_encoder"}),
        ("decoder", {}, {"decoder"}),
    ],
)
def test_a_stage_trains_its_networks_and_no_others(
    name: str, options: dict[str, bool], trained: set[str]
) -> None:
    stage = make_stage(name, **options)
    stage(*batch())["loss"].backward()
    moved = {
        parameter_name.split(".")[0]
        for parameter_name, parameter in stage.network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert moved == trained
    required = {n.split(".")[0] for n, p in stage.network.named_parameters() if p.requires_grad}
    assert required == trained


@pytest.mark.parametrize("name", ["joint", "teacher", "distillation", "decoder"])
def test_a_samples_loss_does_not_depend_on_the_batch_it_comes_with(name: str) -> None:
    stage = make_stage(name)
    x_l, x_h, seeds = batch()
    together = stage(x_l, x_h, seeds)["loss"]
    alone = [
        stage(x_l[i : i + 1], x_h[i : i + 1], seeds[i : i + 1])["loss"] for i in range(len(seeds))
    ]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)
    assert stage(x_l, x_h, seeds + 1)["loss"].item() != together.item()


@pytest.mark.parametrize("name", sorted(SYSTEM.stages))
def test_every_stage_learns_one_batch(name: str) -> None:
    stage = make_stage(name)
    groups = [p for group in stage.parameter_groups() for p in group.parameters]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    first = None
    for _ in range(30):
        loss = stage(*batch())["loss"]
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.97 * first


@pytest.mark.parametrize(
    ("forward", "variance", "prediction"),
    [
        *product(("none",), ("constant",), PREDICTIONS),
        *product(("additive",), ("learned",), PREDICTIONS),
        *product(("additive",), ("zero",), ("residual", "z_h", "v")),
        *product(("resshift",), ("learned",), ("residual", "z_h")),
    ],
)
def test_the_unet_learns_what_inference_makes_of_it(
    forward: str, variance: str, prediction: str
) -> None:
    """A UNet that predicts the joint stage's target has no loss, and inference takes the HR latent
    from its prediction."""
    settings = [
        f"networks.conditioning.forward={forward}", f"networks.conditioning.variance={variance}",
        f"networks.prediction={prediction}",
    ]  # fmt: skip
    network = EdgeSDSR(load_config([f"recipe={SMALL}", *settings]).networks)
    kind = SYSTEM.stages["joint"]
    stage = kind(network, kind.Options(timestep_power=1.0))
    x_l, x_h, seeds = batch()
    z_h = network.encode(x_h, x_l)
    z_l, log_variance = network.lr_encoder(x_l)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def right_answer(z: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        z_t = z[:, : z_h.shape[1]]
        seen.append((z_t, timesteps))
        signal, end, scale = network.process.at(timesteps)
        noise = (z_t - signal * z_h - end * z_l) / scale
        return network.prediction.target(z_h, z_l, noise, timesteps)

    network.unet.forward = right_answer  # type: ignore[method-assign]
    assert stage(x_l, x_h, seeds)["latent"].item() < 1e-6
    [(z_t, timesteps)] = seen
    assert len(set(timesteps.tolist())) == len(seeds)
    answer = right_answer(torch.cat([z_t, z_l], dim=1), timesteps)
    found = network.prediction.z_h(answer, z_t, z_l, timesteps)
    assert torch.allclose(found, z_h, atol=1e-3)
    deviation = {"zero": 0.0, "constant": 0.5, "learned": torch.exp(log_variance / 2)}[variance]
    noise = deviation * per_sample_normal(seeds, z_h.shape[1:], device=z_h.device)
    signal, end, scale = network.process.at(timesteps)
    assert torch.allclose(z_t, signal * z_h + end * z_l + scale * noise, atol=1e-6)


def test_the_teacher_sees_the_image_at_half_the_scale() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    view = teachers_view(ramp, 4)
    assert view.shape == (1, 3, 32, 32)
    middle = (torch.arange(32) * 2 + 0.5) / 63
    assert torch.allclose(view[0, 0, 16, 4:-4], middle[4:-4], atol=1e-4)
    # No detail of the pixels' own size is left.
    checks = torch.zeros(1, 3, 64, 64)
    checks[..., ::2] = 1
    assert torch.allclose(teachers_view(checks, 4)[..., 4:-4], torch.tensor(0.5), atol=0.01)


def test_the_student_starts_as_its_teacher() -> None:
    stage = make_stage("distillation")
    student, teacher = stage.network.unet.state_dict(), stage.network.teacher.unet.state_dict()
    assert not all(torch.equal(student[name], teacher[name]) for name in teacher)
    stage.start(*[torch.empty(0, 3, 1, 1)] * 2)
    assert all(torch.equal(student[name], teacher[name]) for name in teacher)


@pytest.mark.parametrize("prediction", ["residual", "v"])
@pytest.mark.parametrize("teacher_weight", [1.0, 0.25])
def test_the_student_learns_what_its_teacher_says_of_the_same_point(
    teacher_weight: float, prediction: str
) -> None:
    settings = [f"recipe={SMALL}", "networks.teacher=true", f"networks.prediction={prediction}"]
    network = EdgeSDSR(load_config(settings).networks)
    teacher = network.teacher
    assert teacher is not None
    for unet in (network.unet, teacher.unet):
        torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    kind = SYSTEM.stages["distillation"]
    stage = kind(network, kind.Options(teacher_weight=teacher_weight))
    x_l, x_h, seeds = batch()
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for unet in (network.unet, teacher.unet):
        unet.register_forward_hook(lambda m, inputs, output: calls.append((*inputs, output)))
    losses = stage(x_l, x_h, seeds)
    (seen, timesteps, said), (teachers, same_timesteps, told) = calls
    channels = network.config.latent_channels
    z_t, z_l = seen.split(channels, dim=1)
    assert torch.equal(teachers[:, :channels], z_t)
    assert torch.equal(timesteps, same_timesteps)
    assert torch.equal(z_l, network.lr_encoder(x_l)[0])
    expected_z_l = teacher.lr_encoder(teachers_view(x_h, 4))[0]
    assert torch.equal(teachers[:, channels:], expected_z_l)
    z_h = network.encode(x_h, x_l)
    students = network.prediction.z_h(said, z_t, z_l, timesteps)
    of_teacher = network.prediction.z_h(told, z_t, expected_z_l, timesteps)
    target = teacher_weight * of_teacher + (1 - teacher_weight) * z_h
    assert losses["latent"].item() == pytest.approx(
        (students - target).square().mean().item(), rel=1e-4
    )
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("name", ["teacher", "distillation"])
def test_scale_distillation_needs_a_teacher(name: str) -> None:
    network = EdgeSDSR(load_config([f"recipe={SMALL}"]).networks)
    with pytest.raises(ValueError, match=r"set networks\.teacher=true"):
        SYSTEM.stages[name](network, SYSTEM.stages[name].Options())


def test_a_preview_is_inference_where_the_stage_trains_for_it() -> None:
    x_l, x_h, _ = batch()
    for name in ("joint", "distillation", "decoder"):
        stage = make_stage(name)
        assert stage.previews_inference
        assert torch.equal(stage.preview(x_l, x_h), stage.network(x_l))
    for name in ("autoencoder", "teacher"):
        stage = make_stage(name)
        assert not stage.previews_inference
        preview = stage.preview(x_l, x_h)
        assert preview.shape == x_h.shape
        assert not torch.equal(preview, stage.preview(x_l, 1 - x_h))
