"""Stages that change the structure of networks, and what starts from their weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.load import load_model
from pipelines.runs.checkpoint import Checkpoint
from pipelines.training.launch import run_stages
from srmodels.compression.fake_quantisation import rounding_layers
from srmodels.compression.structure import widths_of
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.network import F2SRGAN
from srmodels.f2srgan.system import SYSTEM
from srmodels.stages import PixelStage, PruneStage, QuantizeStage
from tests.conftest import SMALL

STAGES = ["pixel", "prune", "finetune", "quantize"]


def configure(dataset: Path, home: Path, *arguments: str) -> Config:
    recipe = SMALL.with_name("compressed.yaml")
    settings = [f"recipe={recipe}", f"data={dataset}", f"run.storage={home / 'runs'}"]
    return load_config([*settings, *arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compressed")


@pytest.fixture(scope="module")
def trained(dataset: Path, home: Path) -> dict[str, Checkpoint]:
    """The last checkpoint of each stage, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRMILL_HOME", str(home))
        checkpoints = run_stages(configure(dataset, home), STAGES)
    return dict(zip(STAGES, checkpoints, strict=True))


def structure(checkpoint: Checkpoint) -> dict[str, Any]:
    networks = checkpoint.state().networks
    return {name: networks[name] for name in ("widths", "quantised")}


def test_what_a_stage_changes_stays_for_those_after_it(trained: dict[str, Checkpoint]) -> None:
    found = {name: structure(checkpoint) for name, checkpoint in trained.items()}
    assert found["pixel"] == {"widths": {}, "quantised": ""}
    narrow = found["prune"]["widths"]
    assert "generator.tail" in narrow
    assert found["prune"] == found["finetune"] == {"widths": narrow, "quantised": ""}
    assert found["quantize"] == {"widths": narrow, "quantised": "int8"}


def test_what_is_left_learns(trained: dict[str, Checkpoint]) -> None:
    """A stage changes all weights of the one before, and ranges are found and learned."""
    before, after = (trained[name].weights() for name in ("prune", "finetune"))
    learned = [name for name in before if name.endswith("weight")]
    assert learned
    assert [name for name in learned if torch.equal(before[name], after[name])] == []
    ranges = {n: w for n, w in trained["quantize"].weights().items() if "input_range.high" in n}
    assert len(ranges) == 3
    assert all(high.item() not in (0.0, 1.0) for high in ranges.values())


def test_a_run_of_each_stage_is_a_model(
    trained: dict[str, Checkpoint], dataset: Path, home: Path
) -> None:
    config = configure(dataset, home)
    for name, checkpoint in trained.items():
        model = load_model(ModelReference.parse(f"run:{checkpoint.run.name}"), config)
        narrow, widths = structure(checkpoint)["widths"], widths_of(model.network)
        assert {layer: widths[layer] for layer in narrow} == narrow
        assert bool(rounding_layers(model.network)) == (name == "quantize")
        assert model.network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("name", ["prune", "finetune", "quantize"])
def test_a_stopped_run_goes_on_to_the_same_weights(
    trained: dict[str, Checkpoint], dataset: Path, home: Path, tmp_path: Path, name: str
) -> None:
    """The structure is read from the checkpoint: nothing is chosen again."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / f"compressed-{name}")
    run_stages(configure(dataset, tmp_path, f"stages.{name}.train.steps=2"), [name])
    (resumed,) = run_stages(configure(dataset, tmp_path), [name])
    assert structure(resumed) == structure(trained[name])
    weights, whole = resumed.weights(), trained[name].weights()
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[weight], whole[weight]) for weight in whole)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2])
def test_every_zero_stage_compresses_the_same(
    trained: dict[str, Checkpoint], dataset: Path, home: Path, tmp_path: Path, zero_stage: int
) -> None:
    shutil.copytree(home / "runs" / "compressed-pixel", tmp_path / "runs" / "compressed-pixel")
    after = STAGES[1:]
    settings = [f"stages.{name}.train.zero_stage={zero_stage}" for name in after]
    for name, found in zip(
        after, run_stages(configure(dataset, tmp_path, *settings), after), strict=True
    ):
        assert structure(found) == structure(trained[name])
        weights, whole = found.weights(), trained[name].weights()
        for weight in whole:
            torch.testing.assert_close(weights[weight], whole[weight], atol=1e-3, rtol=1e-2)


def test_other_numbers_of_the_networks_are_still_refused(
    trained: dict[str, Checkpoint], dataset: Path, home: Path
) -> None:
    config = configure(dataset, home, "networks.channels=20")
    with pytest.raises(UserError, match="which has other networks: set networks"):
        run_stages(config, ["finetune"])


@pytest.mark.parametrize("stage", [PruneStage, QuantizeStage])
def test_a_system_that_could_not_keep_the_structure_is_told_so(stage: type[PixelStage]) -> None:
    network = F2SRGAN(F2SRGANConfig(trunk="plain"))  # Not by its system, so without a place.
    with pytest.raises(ValueError, match="derive from srmodels"):
        stage(network, stage.Options())


def test_quantised_networks_are_not_pruned() -> None:
    network = SYSTEM.build(F2SRGANConfig(trunk="plain", quantised="int8"))
    with pytest.raises(ValueError, match="quantised already: prune first"):
        PruneStage(network, PruneStage.Options())


def test_what_cannot_be_pruned_so_far_is_one_sentence(
    trained: dict[str, Checkpoint], dataset: Path, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "runs" / "compressed-pixel", tmp_path / "runs" / "compressed-pixel")
    config = configure(dataset, tmp_path, "stages.prune.options.keep=0.01")
    with pytest.raises(UserError, match="stage 'prune' cannot start: the networks cannot be brou"):
        run_stages(config, ["prune"])
