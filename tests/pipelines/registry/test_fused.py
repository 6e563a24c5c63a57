"""A system whose networks are fused: trained as branches, shipped as plain convolutions."""

from pathlib import Path

import pytest
import torch

from pipelines.config import load_config
from pipelines.errors import UserError
from pipelines.registry.bundle import build_network
from pipelines.registry.models import at_precision, load_model
from pipelines.schema import Config
from pipelines.training.initial import init_checkpoint
from pipelines.training.launch import run_stages
from srmodels.system import load_system
from tests.conftest import ROOT
from tests.pipelines.registry.test_bundle import make_bundle

RECIPE = ROOT / "tests" / "recipes" / "small_rdsr.yaml"


@pytest.fixture
def trained(dataset: Path) -> Config:
    """Both stages, two steps each, in this process."""
    config = load_config([f"recipe={RECIPE}", f"data={dataset}", "train.workers=0"])
    for stage in config.stages.values():
        stage.train.steps = 2
    run_stages(config, [*config.stage1, *config.stage2])
    return config


def test_a_run_is_fused_when_it_is_loaded_and_trained_as_it_was(
    trained: Config, tmp_path: Path
) -> None:
    (newest,) = run_stages(trained, trained.stage2)
    network = load_system("rdsr").build(trained.networks).eval()
    network.load_state_dict(newest.weights())
    model, x_l = load_model(f"run:{trained.run.name}-diffusion", trained), torch.rand(1, 3, 16, 16)
    assert model.network.fused
    assert not network.fused
    with torch.no_grad():
        assert torch.allclose(model.network(x_l), network(x_l), atol=1e-5)
    shipped = model.network.inference_state_dict()
    assert sum(map(torch.numel, shipped.values())) < sum(
        w.numel() for w in network.inference_state_dict().values()
    )
    again = build_network(trained, shipped)
    assert torch.equal(again(x_l), model.network(x_l))
    half = at_precision(model, "fp16").network.inference_state_dict()
    assert all(torch.equal(half[name], w.half().float()) for name, w in shipped.items())


def test_what_is_fused_cannot_be_trained_on(trained: Config, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", RECIPE)
    model = load_model(f"run:{trained.run.name}-diffusion", trained)
    weights = model.trained_weights
    trained.stages["prior"].init_from = str(bundle.path)
    trained.run.name = "another"
    with pytest.raises(UserError, match="is fused for inference and cannot be trained on"):
        init_checkpoint(trained, "prior")
    # Its run is not: there everything is, the encoder that teaches too.
    trained.stages["prior"].init_from = "run:small_rdsr-diffusion"
    start = init_checkpoint(trained, "prior")
    assert start is not None
    assert {name.partition(".")[0] for name in weights} == {
        "hr_encoder", "lr_encoder", "denoiser", "decoder",
    }  # fmt: skip
    assert all(torch.equal(start.weights()[name], weight) for name, weight in weights.items())


def test_a_bundle_of_branches_is_refused(tmp_path: Path) -> None:
    """What another version, or a hand, put there unfused."""
    bundle = make_bundle(tmp_path / "bundle", RECIPE)
    config = bundle.config()
    weights = load_system("rdsr").build(config.networks).inference_state_dict()
    with pytest.raises(UserError, match="the weights do not fit the network"):
        build_network(config, weights)
