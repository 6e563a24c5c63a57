import pytest
import torch

from pipelines.config import load_config
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
