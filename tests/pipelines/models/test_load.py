"""Models behind references: with whose networks, at which precision, and where there is none."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pipelines.config.load import load_config, to_dict
from pipelines.config.reference import SHIPPED, Kind, ModelReference, shipped_models
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.facts import Provenance
from pipelines.models.load import Model, at_precision, find_bundle, load_model, trained_config
from pipelines.runs.checkpoint import RunState
from pipelines.runs.names import run_checkpoints
from pipelines.runs.writer import write_weights
from srmodels.system import load_system
from tests.conftest import SMALL
from tests.support.bundles import make_bundle
from tests.support.checkpoints import open_writer

WIDE = "stages.joint.networks.decoder.channels=[16]"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config([f"recipe={SMALL}", WIDE])


@pytest.fixture
def model(config: Config, tmp_path: Path) -> Model:
    """A bundle's, with weights for finetuning."""
    bundle = make_bundle(tmp_path / "bundle")
    loaded = load_model(ModelReference.parse(str(bundle.path)), config)
    kept = {"hr_encoder.weight": torch.rand(5)}
    return replace(loaded, finetuning_weights=kept, trained_weights=loaded.trained_weights | kept)


def state(config: Config, stage: str) -> RunState:
    return RunState(
        step=4, samples=16, world_size=1, zero_stage=0, seed=0, manifest="m", identity={},
        metrics={}, score=None, config=to_dict(config), stage=stage,
        networks=asdict(config.stages[stage].networks), parent_version="models:/wide/7",
    )  # fmt: skip


def save_run(config: Config, stage: str) -> None:
    """A complete run of a stage, of networks that were never trained."""
    torch.manual_seed(0)
    network = load_system(config.system).build(config.stages[stage].networks)
    writer = open_writer(run_checkpoints(config, f"small-{stage}"), "a")
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    write_weights(writer.folder(4), weights, {}, state(config, stage))
    writer.publish(4)
    writer.wait()
    writer.close()


def test_a_runs_networks_are_those_that_its_stage_left(config: Config) -> None:
    trained_with = trained_config(state(config, "joint"))
    assert trained_with.networks.decoder.channels == [16]
    assert trained_with.stages["decoder"].networks.decoder.channels == [8]
    same = trained_config(state(config, "decoder"))
    assert to_dict(same) == to_dict(config)


def test_a_run_of_a_stage_with_networks_of_its_own_is_loaded_with_them(config: Config) -> None:
    save_run(config, "joint")
    model = load_model(ModelReference.parse("run:small-joint"), config)
    assert model.config.networks.decoder.channels == [16]
    assert model.network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 64, 64)
    assert model.provenance == Provenance("m", step=4, parent_version="models:/wide/7")
    assert (model.version, model.parent_version) == (None, "models:/wide/7")
    assert {name.partition(".")[0] for name in model.finetuning_weights} == {"hr_encoder"}
    shipped = model.network.inference_state_dict()
    assert model.trained_weights.keys() == shipped.keys() | model.finetuning_weights.keys()


def test_full_precision_changes_nothing(model: Model) -> None:
    assert at_precision(model, "fp32") is model


def test_half_precision_rounds_every_weight_and_keeps_fp32_tensors(model: Model) -> None:
    half = at_precision(model, "fp16")
    assert half.provenance == replace(model.provenance, precision="fp16")
    for rounded, exact in (
        (half.network.inference_state_dict(), model.network.inference_state_dict()),
        (half.finetuning_weights, model.finetuning_weights),
        (half.trained_weights, model.trained_weights),
    ):
        assert rounded.keys() == exact.keys()
        for name, weight in exact.items():
            assert rounded[name].dtype == torch.float32
            assert torch.equal(rounded[name], weight.half().float()), name
    assert half.weights_sha256 != model.weights_sha256
    assert at_precision(half, "fp16").weights_sha256 == half.weights_sha256


def test_a_bundle_is_found_by_its_name_or_its_path(tmp_path: Path) -> None:
    for name in shipped_models():
        assert find_bundle(ModelReference.parse(name)) == SHIPPED / name
    assert find_bundle(ModelReference.parse(str(tmp_path))) == tmp_path


@pytest.mark.parametrize("text", ["./absent", "bicubic", "onnx:model.onnx"])
def test_what_is_no_model_is_told_what_would_be_one(config: Config, text: str) -> None:
    reference = ModelReference.parse(text)
    listed = ", ".join(shipped_models())
    with pytest.raises(UserError) as error:
        load_model(reference, config)
    assert str(error.value) == (
        f"there is no model '{text}': give a bundle directory, models:/NAME@ALIAS, run:NAME, or "
        f"the name of a shipped model ({listed})."
    )


def test_a_run_that_does_not_exist_is_asked_for(config: Config) -> None:
    with pytest.raises(UserError, match=r"no run behind 'run:nobody' .* or set run\.storage"):
        load_model(ModelReference(Kind.RUN, "nobody"), config)
