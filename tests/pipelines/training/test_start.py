"""Tests the start of a stage: weights of others, a model, or nothing, the same on every worker."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.errors import UserError
from pipelines.models.bundle import FINETUNING, WEIGHTS, Bundle, seal
from pipelines.registry import register
from pipelines.training.launch import run_stages
from pipelines.training.start import describe_start, start_checkpoint
from srmodels.system import load_system
from tests.conftest import SMALL
from tests.support.bundles import make_bundle
from tests.support.training import configure


def make_decoder(path: Path) -> dict[str, torch.Tensor]:
    """A decoder of the small recipe's shape, in TAESD's own layout."""
    torch.manual_seed(7)
    network = load_system("edge_sd_sr").build(configure(path.parent).networks)
    weights = {}
    for name, weight in network.decoder.state_dict().items():  # type: ignore[union-attr]
        _, number, rest = name.split(".", 2)
        weights[f"{int(number) + 1}.{rest}"] = weight
    save_file(weights, path)
    return weights


def make_finetunable(directory: Path, recipe: Path = SMALL) -> Bundle:
    """A bundle of the small recipe with its HR encoder."""
    bundle = make_bundle(directory, recipe)
    torch.manual_seed(8)
    network = load_system("edge_sd_sr").build(bundle.config().networks)
    encoder = network.finetuning_modules()["hr_encoder"].state_dict()
    save_file({f"hr_encoder.{n}": w.half() for n, w in encoder.items()}, directory / FINETUNING)
    seal(directory, bundle.facts)
    return bundle


def test_weights_of_others_are_written_once_and_trained(dataset: Path, tmp_path: Path) -> None:
    weights = make_decoder(tmp_path / "decoder.safetensors")
    config = configure(dataset, f"init.decoder={tmp_path / 'decoder.safetensors'}", "train.steps=1")
    first = start_checkpoint(config, "autoencoder")
    assert first is not None
    assert first.run.name == "small-autoencoder-init"
    written = first.weights()
    assert torch.equal(written["decoder.layers.0.weight"], weights["1.weight"])
    torch.manual_seed(config.seed)
    at_random = load_system("edge_sd_sr").build(config.networks).state_dict()
    assert torch.equal(written["unet.conv_in.weight"], at_random["unet.conv_in.weight"])
    age = (Path(first.location) / "model.safetensors").stat().st_mtime_ns
    again = start_checkpoint(config, "autoencoder")
    assert again is not None
    assert again.location == first.location
    assert (Path(first.location) / "model.safetensors").stat().st_mtime_ns == age
    assert describe_start(config, "autoencoder").startswith("decoder /")

    (trained,) = run_stages(config, ["autoencoder"])
    moved = trained.live_weights()["decoder.layers.0.weight"] - weights["1.weight"]
    assert 0 < moved.abs().max() < 2 * config.train.learning_rate
    # The run has begun: what it began with is its own, wherever that came from.
    (tmp_path / "decoder.safetensors").unlink()
    again = start_checkpoint(config, "autoencoder")
    assert again is not None
    assert again.location == first.location
    save_file(weights | {"1.bias": torch.ones(8)}, tmp_path / "other.safetensors")
    other = configure(dataset, f"init.decoder={tmp_path / 'other.safetensors'}", "train.steps=1")
    with pytest.raises(UserError, match=r"started with other settings \(initial weights\)"):
        run_stages(other, ["autoencoder"])


def test_only_stages_that_start_from_no_other_take_them(dataset: Path, tmp_path: Path) -> None:
    make_decoder(tmp_path / "decoder.safetensors")
    config = configure(dataset, f"init.decoder={tmp_path / 'decoder.safetensors'}")
    assert start_checkpoint(config, "joint", planned=["autoencoder", "joint"]) is None
    assert describe_start(config, "joint") == "stage autoencoder"
    assert start_checkpoint(configure(dataset), "autoencoder") is None
    assert describe_start(configure(dataset), "autoencoder") == "random weights"


def test_a_model_is_finetuned(dataset: Path, tmp_path: Path) -> None:
    bundle = make_finetunable(tmp_path / "bundle")
    config = configure(dataset, f"stages.joint.init_from={bundle.path}", "train.steps=1")
    assert describe_start(config, "joint") == f"model {bundle.path}"
    start = start_checkpoint(config, "joint")
    assert start is not None
    weights = start.weights()
    assert torch.equal(
        weights["unet.conv_in.weight"], load_file(bundle.path / WEIGHTS)["unet.conv_in.weight"]
    )
    encoder = load_file(bundle.path / FINETUNING)
    assert torch.equal(
        weights["hr_encoder.layers.0.weight"], encoder["hr_encoder.layers.0.weight"].float()
    )
    (trained,) = run_stages(config, ["joint"])
    assert trained.step == 1
    assert trained.state().parent_version is None


def test_a_run_stays_with_what_an_alias_meant_when_it_began(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_finetunable(tmp_path / "first"), make_finetunable(tmp_path / "second")
    weights = load_file(second.path / WEIGHTS)
    save_file({name: weight + 1 for name, weight in weights.items()}, second.path / WEIGHTS)
    seal(second.path, second.facts)

    def champion(bundle: Bundle) -> None:
        promote = ("register.promote=always", f"bundle={bundle.path}")
        register.run(load_config([f"recipe={SMALL}", *promote]))

    def start() -> tuple[torch.Tensor, str | None]:
        checkpoint = start_checkpoint(config, "joint")
        assert checkpoint is not None
        return checkpoint.weights()["unet.conv_in.weight"], checkpoint.state().parent_version

    model = "stages.joint.init_from=models:/small@champion"
    config = configure(dataset, model, "train.steps=1")
    champion(first)
    joint, trained = run_stages(config, ["joint", "decoder"])
    began, meant = start()
    assert "Starting from models:/small@champion. It is models:/small/1 now." in (
        capsys.readouterr().out
    )
    champion(second)
    assert torch.equal(start()[0], began)
    # The version stands in the state of this stage and of the next, and in MLflow.
    assert meant == start()[1] == "models:/small/1"
    assert joint.state().parent_version == trained.state().parent_version == meant
    client = tracking.connect(config.mlflow)
    run = client.get_run(str(tracking.find_run(client, config.mlflow, "small-decoder")))
    assert run.data.tags["srmill.parent_version"] == meant
    # Another run of this name asks anew.
    shutil.rmtree(joint.run.location)
    weight, version = start()
    assert torch.equal(weight, began + 1)
    assert version == "models:/small/2"


def test_networks_that_only_train_may_differ_from_a_models_others_not(
    dataset: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "teacher.yaml"
    recipe.write_text(f"base: {SMALL}\nnetworks: {{teacher: true}}\n")
    bundle = make_finetunable(tmp_path / "bundle", recipe)
    model = f"stages.joint.init_from={bundle.path}"
    config = configure(dataset, model, "networks.discriminator={channels: 8, num_levels: 2}")
    start = start_checkpoint(config, "joint")
    assert start is not None
    assert any(name.startswith("discriminator.") for name in start.weights())
    with pytest.raises(UserError, match=r"has other networks \(prediction\) than the recipe"):
        start_checkpoint(configure(dataset, model, "networks.prediction=z_h"), "joint")


def test_weights_that_no_stage_would_take_are_refused(dataset: Path, tmp_path: Path) -> None:
    make_decoder(tmp_path / "decoder.safetensors")
    init = f"init.decoder={tmp_path / 'decoder.safetensors'}"
    run_stages(configure(dataset, "train.steps=1"), ["autoencoder"])
    config = configure(dataset, init, "train.steps=1")
    with pytest.raises(
        UserError, match=r"init\.decoder would be ignored, since stage 'autoencoder'"
    ):
        start_checkpoint(config, "joint")
    bundle = make_finetunable(tmp_path / "bundle")
    config = configure(dataset, init, f"stages.joint.init_from={bundle.path}")
    for stage in ("joint", "decoder"):
        with pytest.raises(UserError, match=r"since stage 'joint' starts from .*/bundle"):
            start_checkpoint(config, stage, planned=["joint"])


def test_a_bundle_without_the_hr_encoder_is_refused(dataset: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    config = configure(dataset, f"stages.joint.init_from={bundle.path}")
    with pytest.raises(UserError, match="has no weights of hr_encoder, which stage 'joint' learns"):
        start_checkpoint(config, "joint")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("init.vae=absent/", r"init\.vae: there is no 'absent/'"),
        ("stages.autoencoder.init_from=./absent", r"there is no model '\./absent'"),
    ],
)
def test_what_is_not_there_ends_it(dataset: Path, argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_stages(configure(dataset, argument), ["autoencoder"])


def test_a_name_that_is_neither_stage_nor_model_is_refused(dataset: Path) -> None:
    with pytest.raises(UserError, match="'autoencodr', which is no stage of the recipe"):
        configure(dataset, "stages.joint.init_from=autoencodr")
