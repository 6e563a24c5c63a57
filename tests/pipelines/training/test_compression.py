"""Stages that change the structure of networks, and what starts from their weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.load import load_model
from pipelines.runs.checkpoint import Checkpoint
from pipelines.training.launch import run_stages
from pipelines.training.worker import prepare_deepspeed
from srmodels.compression.fake_quantisation import rounding_layers
from srmodels.compression.structure import widths_of
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.network import F2SRGAN
from srmodels.f2srgan.system import SYSTEM
from srmodels.stages import PixelStage, PruneStage, QuantizeStage
from tests.conftest import SMALL
from tests.pipelines.training.test_engine import batch
from tests.support.processes import run_ranks
from tests.support.training import CPU, join

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


def test_a_group_lasso_is_trained_with_where_a_stage_asks_for_it(
    trained: dict[str, Checkpoint], dataset: Path, tmp_path: Path
) -> None:
    """Before pruning, and after it on what is left."""
    found = {name: trained[name].state().metrics for name in STAGES}
    with_it = [name for name, metrics in found.items() if "train/group_lasso" in metrics]
    assert with_it == ["pixel", "prune"]
    assert found["prune"]["train/group_lasso"] < found["pixel"]["train/group_lasso"]
    without = configure(dataset, tmp_path, "stages.pixel.options.group_lasso_weight=0")
    (other,) = run_stages(without, ["pixel"])
    ours, theirs = trained["pixel"].weights(), other.weights()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


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


@pytest.mark.parametrize("name", STAGES)
def test_a_stopped_run_goes_on_to_the_same_weights(
    trained: dict[str, Checkpoint], dataset: Path, home: Path, tmp_path: Path, name: str
) -> None:
    """The structure is read from the checkpoint: nothing is chosen again."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / f"compressed-{name}")
    (half,) = run_stages(configure(dataset, tmp_path, f"stages.{name}.train.steps=2"), [name])
    assert half.step == 2
    (resumed,) = run_stages(configure(dataset, tmp_path), [name])
    assert structure(resumed) == structure(trained[name])
    weights, whole = resumed.weights(), trained[name].weights()
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[weight], whole[weight]) for weight in whole)


def test_a_stopped_run_keeps_the_convolutions_that_kl_learns(
    trained: dict[str, Checkpoint], dataset: Path, home: Path, tmp_path: Path
) -> None:
    """They are no weights of the networks, so the engine's files alone hold them."""
    found = []
    for name, steps in (("whole", [4]), ("halves", [2, 4])):
        shutil.copytree(home / "runs", tmp_path / name / "runs")
        shutil.rmtree(tmp_path / name / "runs" / "compressed-finetune")
        for count in steps:
            settings = [
                f"stages.finetune.train.steps={count}",
                "stages.finetune.options.features=kl",
            ]
            (last,) = run_stages(configure(dataset, tmp_path / name, *settings), ["finetune"])
        found.append(last.weights())
    whole, halves = found
    assert all(torch.equal(whole[weight], halves[weight]) for weight in whole)
    with_afd = trained["finetune"].weights()
    assert any(not torch.equal(whole[weight], with_afd[weight]) for weight in whole)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_every_zero_stage_compresses_the_same(
    trained: dict[str, Checkpoint], dataset: Path, home: Path, tmp_path: Path, zero_stage: int
) -> None:
    settings = [f"stages.{name}.train.zero_stage={zero_stage}" for name in STAGES]
    for name, found in zip(
        STAGES, run_stages(configure(dataset, tmp_path, *settings), STAGES), strict=True
    ):
        assert structure(found) == structure(trained[name])
        weights, whole = found.weights(), trained[name].weights()
        for weight in whole:
            torch.testing.assert_close(weights[weight], whole[weight], atol=1e-3, rtol=1e-2)


def train_with_group_lasso(rank: int, folder: str) -> None:
    """Trains as one of two ranks, and writes the losses of every step down."""
    join(rank, 2, Path(folder, "store"))
    torch.set_num_threads(1)
    prepare_deepspeed(CPU)
    from pipelines.training.build import build_engine

    recipe = SMALL.with_name("compressed.yaml")
    told = []
    for zero_stage in (0, 0, 1, 2, 3):
        settings = [f"train.zero_stage={zero_stage}", "stages.pixel.options.group_lasso_weight=0.1"]
        config = load_config([f"recipe={recipe}", "train.batch_size=5", *settings])
        engine, _ = build_engine(config, "pixel", CPU)
        losses = []
        for step in range(3):
            found = engine.step(batch(step, rank, 2), step).losses
            mean = torch.stack([found["loss"], found["group_lasso"]])
            dist.all_reduce(mean)
            losses += (mean / 2).tolist()
        told.append(losses)
    Path(folder, f"{rank}.json").write_text(json.dumps(told))


def test_two_ranks_train_with_one_group_lasso_under_every_zero_stage(tmp_path: Path) -> None:
    run_ranks(train_with_group_lasso, (str(tmp_path),), 2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    plain, again, *zero = first
    assert again == plain
    penalties = plain[1::2]
    # All three steps make it smaller: its weight leaves nothing else to learn.
    assert sorted(penalties, reverse=True) == penalties
    for losses in zero:
        assert losses == pytest.approx(plain, rel=1e-5)


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
