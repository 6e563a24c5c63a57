"""A system whose networks are fused: trained as branches, shipped as plain convolutions."""

from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines import cli
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.export import export
from pipelines.models.build import build_network
from pipelines.models.bundle import FINETUNING, seal
from pipelines.models.load import at_precision, load_model
from pipelines.training.launch import run_stages
from pipelines.training.start import start_checkpoint
from srmodels.system import load_system
from tests.conftest import ROOT
from tests.support.bundles import make_bundle

RECIPE = ROOT / "tests" / "recipes" / "small_rdsr.yaml"


def train(dataset: Path, conv: str) -> Config:
    """Both stages, two steps each, in this process."""
    settings = [f"networks.decoder.conv={conv}", "train.workers=0"]
    config = load_config([f"recipe={RECIPE}", f"data={dataset}", *settings])
    for stage in config.stages.values():
        stage.train.steps = 2
    run_stages(config, [*config.stage1, *config.stage2])
    return config


@pytest.fixture
def trained(dataset: Path) -> Config:
    return train(dataset, "ecb")


@pytest.mark.parametrize("conv", ["ecb", "repvgg"])
def test_a_run_is_fused_when_it_is_loaded_and_trained_as_it_was(dataset: Path, conv: str) -> None:
    trained = train(dataset, conv)
    (newest,) = run_stages(trained, trained.stage2)
    network = load_system("rdsr").build(trained.networks).eval()
    network.load_state_dict(newest.weights())
    model, x_l = (
        load_model(ModelReference.parse(f"run:{trained.run.name}-diffusion"), trained),
        torch.rand(1, 3, 16, 16),
    )
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


def test_what_batch_norms_gathered_is_averaged_kept_and_shipped(dataset: Path) -> None:
    trained = train(dataset, "repvgg")
    (newest,) = run_stages(trained, trained.stage2)
    gathered = {n: v for n, v in newest.ema().items() if "running" in n}
    assert gathered
    live, shipped = newest.live_weights(), newest.weights()
    for name, value in gathered.items():
        assert torch.equal(shipped[name], value)
        assert not torch.equal(live[name], value)


def test_it_is_fused_by_evaluation_export_and_upscaling(
    trained: Config, ran: list[tuple[str, list[str]]], tmp_path: Path
) -> None:
    trained.evaluate.metrics, trained.evaluate.latency_sizes = ["psnr_y"], [16]
    trained.evaluate.latency_runs = trained.evaluate.num_pictures = 1
    trained.model = "run:small_rdsr-diffusion"
    evaluate.run(trained)
    bundle = Path(export.run(trained))
    graph = onnx.load(bundle / "edge" / "model_fp32.onnx").graph
    decoder = trained.networks.decoder
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    encoder = 1 + 2 * trained.networks.prior_encoder.num_blocks + 3
    assert len(convolutions) == encoder + decoder.num_convs + 2
    names = {name.rpartition(".")[0] for name in load_file(bundle / "model.safetensors")}
    assert {n for n in names if n.startswith("decoder.") and "modulation" not in n} == {
        "decoder.head", "decoder.tail", *(f"decoder.body.{n}.conv" for n in range(2)),
    }  # fmt: skip
    photo = tmp_path / "photo.png"
    Image.new("RGB", (20, 12), "teal").save(photo)
    with pytest.raises(SystemExit) as ended:
        cli.main(["upscale", str(photo), str(tmp_path / "large.png"), "--model", str(bundle)])
    assert not ended.value.code
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (80, 48)


def test_a_run_whose_stage_does_not_train_inference_is_refused(trained: Config) -> None:
    with pytest.raises(UserError, match="stage 'prior' does not train all that inference needs"):
        load_model(ModelReference.parse("run:small_rdsr-prior"), trained)
    assert load_model(
        ModelReference.parse("run:small_rdsr-prior"), trained, to_train=True
    ).trained_weights


def test_a_fused_bundle_can_be_trained_on(trained: Config, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", RECIPE)
    for stage in trained.stages.values():
        stage.init_from = str(bundle.path)
    trained.run.name = "another"
    start = start_checkpoint(trained, "prior")
    assert start is not None
    network = load_system("rdsr").build(trained.networks)
    network.load_state_dict(start.weights())
    assert not network.fused
    x_l = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(network.eval()(x_l), bundle.network()(x_l), atol=1e-5)
    # The other stage learns from the encoder that a bundle may lack.
    with pytest.raises(UserError, match="has no weights of hr_encoder, which stage 'diffusion' le"):
        start_checkpoint(trained, "diffusion")
    encoder = network.finetuning_modules()["hr_encoder"].state_dict()
    kept = {f"hr_encoder.{name}": weight for name, weight in encoder.items()}
    save_file(kept, bundle.path / FINETUNING)
    seal(bundle.path, bundle.facts)
    start = start_checkpoint(trained, "diffusion")
    assert start is not None
    assert all(torch.equal(start.weights()[name], weight) for name, weight in kept.items())


def test_batch_norms_that_were_fused_cannot_be_trained_on(dataset: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "norms.yaml"
    recipe.write_text(f"base: {RECIPE}\nnetworks: {{decoder: {{conv: repvgg}}}}\n")
    bundle = make_bundle(tmp_path / "bundle", recipe)
    start = f"stages.prior.init_from={bundle.path}"
    config = load_config([f"recipe={recipe}", f"data={dataset}", start])
    with pytest.raises(
        UserError, match="'prior' cannot start: the branches of RepVGGConv cannot b"
    ):
        start_checkpoint(config, "prior")


def test_a_run_is_trained_on_with_all_that_it_trained(trained: Config) -> None:
    model = load_model(ModelReference.parse(f"run:{trained.run.name}-diffusion"), trained)
    weights = model.trained_weights
    trained.run.name = "another"
    trained.stages["prior"].init_from = "run:small_rdsr-diffusion"
    start = start_checkpoint(trained, "prior")
    assert start is not None
    assert {name.partition(".")[0] for name in weights} == {
        "hr_encoder", "lr_encoder", "denoiser", "decoder",
    }  # fmt: skip
    assert all(torch.equal(start.weights()[name], weight) for name, weight in weights.items())


def test_a_bundle_of_branches_is_refused(tmp_path: Path) -> None:
    """Another version, or a hand, may have put unfused weights into a bundle."""
    bundle = make_bundle(tmp_path / "bundle", RECIPE)
    config = bundle.config()
    weights = load_system("rdsr").build(config.networks).inference_state_dict()
    with pytest.raises(UserError, match="the weights do not fit the network"):
        build_network(config, weights)
