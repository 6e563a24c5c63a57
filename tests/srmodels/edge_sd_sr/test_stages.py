from itertools import product

import pytest
import torch

from pipelines.config import load_config
from srmodels.edge_sd_sr.diffusion import PREDICTIONS
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.edge_sd_sr.system import SYSTEM
from srmodels.system import Stage
from tests.conftest import SMALL


def make_stage(name: str) -> Stage:
    torch.manual_seed(0)
    network = EdgeSDSR(load_config([f"recipe={SMALL}"]).networks)
    # Zero at the start of training: give the UNet something to say.
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    kind = SYSTEM.stages[name]
    return kind(network, kind.Options())


def batch(size: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_l = torch.rand(size, 3, 16, 16, generator=generator)
    x_h = torch.rand(size, 3, 64, 64, generator=generator)
    return x_l, x_h, torch.arange(size) + 100


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("autoencoder", {"hr_encoder", "decoder"}),
        ("joint", {"unet", "lr_encoder"}),
        ("decoder", {"decoder"}),
    ],
)
def test_a_stage_trains_its_networks_and_no_others(name: str, trained: set[str]) -> None:
    stage = make_stage(name)
    stage(*batch())["loss"].backward()
    moved = {
        parameter_name.split(".")[0]
        for parameter_name, parameter in stage.network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert moved == trained
    required = {n.split(".")[0] for n, p in stage.network.named_parameters() if p.requires_grad}
    assert required == trained


@pytest.mark.parametrize("name", ["joint", "decoder"])
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
    for _ in range(60):
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
        *product(("resshift",), ("learned",), ("residual", "z_h", "epsilon")),
    ],
)
def test_the_unet_learns_what_inference_makes_of_it(
    forward: str, variance: str, prediction: str
) -> None:
    """Where the UNet says what the joint stage asks of it, the latent that inference would take is
    the HR latent, and the loss is zero."""
    settings = [
        f"networks.conditioning.forward={forward}", f"networks.conditioning.variance={variance}",
        f"networks.prediction={prediction}",
    ]  # fmt: skip
    network = EdgeSDSR(load_config([f"recipe={SMALL}", *settings]).networks)
    kind = SYSTEM.stages["joint"]
    stage = kind(network, kind.Options(timestep_power=1.0))
    x_l, x_h, seeds = batch()
    z_h = network.encode(x_h, x_l)
    z_l, _ = network.lr_encoder(x_l)
    inputs: list[torch.Tensor] = []

    def right_answer(z: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        inputs.append(timesteps)
        z_t = z[:, : z_h.shape[1]]
        signal, end, scale = network.process.at(timesteps)
        noise = (z_t - signal * z_h - end * z_l) / scale
        return network.prediction.target(z_h, z_l, noise, timesteps)

    network.unet.forward = right_answer  # type: ignore[method-assign]
    assert stage(x_l, x_h, seeds)["latent"].item() < 1e-6
    assert len(set(inputs[0].tolist())) == len(seeds)


def test_a_preview_is_inference_where_the_stage_trains_for_it() -> None:
    x_l, x_h, _ = batch()
    for name in ("joint", "decoder"):
        stage = make_stage(name)
        assert stage.previews_inference
        assert torch.equal(stage.preview(x_l, x_h), stage.network(x_l))
    stage = make_stage("autoencoder")
    assert not stage.previews_inference
    preview = stage.preview(x_l, x_h)
    assert preview.shape == x_h.shape
    assert not torch.equal(preview, stage.preview(x_l, 1 - x_h))
