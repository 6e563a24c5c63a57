"""Stages whose networks differ, one of which learns from the other."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.export import export
from pipelines.models.build import stage_on_meta
from pipelines.models.bundle import load_bundle
from pipelines.models.load import load_model
from pipelines.runs.checkpoint import Checkpoint
from pipelines.training.cost import training_cost
from pipelines.training.launch import run_stages
from pipelines.training.plan import plan_stages
from pipelines.training.teacher import find_teacher
from srmodels.cost import training_cost as stage_cost
from tests.conftest import ROOT, SMALL
from tests.support.bundles import make_bundle

RECIPE = ROOT / "tests" / "recipes" / "taught.yaml"


def configure(dataset: Path, *arguments: str) -> Config:
    return load_config([f"recipe={RECIPE}", f"data={dataset}", *arguments])


def train(config: Config, *stages: str) -> list[Checkpoint]:
    return run_stages(config, stages or ["wide", "taught"])


def test_a_narrow_network_learns_from_a_wide_one_and_is_exported_as_it_is(
    dataset: Path, ran: list[Any]
) -> None:
    config = configure(dataset)
    wide, taught = train(config)
    assert wide.live_weights()["body.0.weight"].shape == (16, 3, 3, 3)
    assert taught.live_weights().keys() == wide.live_weights().keys()
    assert taught.state().networks == {"scale": 4, "width": 4}

    model = load_model(ModelReference.parse("run:taught-taught"), config)
    assert model.config.networks.width == 4
    assert model.network(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)

    evaluate.run(configure(dataset, "model=run:taught-taught"))
    bundle = load_bundle(export.run(configure(dataset, "model=run:taught-taught")))
    assert bundle.config().networks.width == 4
    assert (bundle.path / "edge" / "model_fp32.onnx").is_file()
    weights = load_model(ModelReference.parse(str(bundle.path)), config).trained_weights
    assert weights["body.0.weight"].shape == (4, 3, 3, 3)


def test_the_teacher_alone_says_what_is_learned(dataset: Path, tmp_path: Path) -> None:
    """Another teacher, other losses; and it does not change itself."""
    losses = []
    for seed in (0, 1):
        config = configure(dataset, f"run.name=teacher-{seed}", f"seed={seed}")
        [wide] = train(config, "wide")
        before = wide.live_weights()
        pupil = configure(
            dataset, f"run.name=pupil-{seed}", f"stages.taught.teacher=run:teacher-{seed}-wide"
        )
        [taught] = train(pupil, "taught")
        losses.append(taught.state().metrics["train/loss"])
        after = wide.live_weights()
        assert all(bool((before[name] == after[name]).all()) for name in before)
    assert losses[0] != losses[1]


def test_a_run_keeps_to_its_teacher(dataset: Path) -> None:
    config = configure(dataset)
    train(config)
    train(configure(dataset, "run.name=other", "seed=1"), "wide")
    changed = configure(dataset, "stages.taught.teacher=run:other-wide")
    with pytest.raises(UserError, match=r"started with other settings \(teacher\)"):
        train(changed, "taught")


def test_a_model_of_another_system_can_teach(dataset: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", SMALL)
    config = configure(dataset, f"stages.taught.teacher={bundle.path}")
    [taught] = train(config, "taught")
    teacher = find_teacher(config, "taught")
    assert teacher is not None
    assert taught.state().identity["teacher"] == teacher.identity
    # Its weights were kept: the bundle may go.
    module = teacher.load(config, torch.device("cpu"))
    x_l = torch.rand(1, 3, 16, 16)
    assert torch.equal(module(x_l), bundle.network()(x_l))


def test_a_plan_counts_the_teachers_forward_pass(dataset: Path) -> None:
    config = configure(dataset)
    assert "taught (" in plan_stages(config, ["wide", "taught"])
    with_teacher = training_cost(config, "taught").flops
    pupil = stage_on_meta(config, "taught")
    pupil.learn_from(torch.nn.Upsample(scale_factor=4))
    alone = stage_cost(pupil, crop=64, samples=4, step=4, bf16=False, recompute=False).flops
    wide = 2 * 16 * 16 * 9 * (3 * 16 + 16 * 48)
    assert with_teacher == alone + wide


def test_a_teacher_that_is_not_trained_yet_is_asked_for(dataset: Path) -> None:
    config = configure(dataset)
    assert find_teacher(config, "taught", planned=["wide", "taught"]) is None
    with pytest.raises(UserError, match=r"run jobs/train\.py stage=wide first"):
        train(config, "taught")


def test_narrow_networks_do_not_start_from_wide_ones(dataset: Path) -> None:
    config = configure(dataset, "stages.taught.init_from=wide")
    train(config, "wide")
    with pytest.raises(UserError, match="'taught' starts from run 'taught-wide', which has other"):
        train(config, "taught")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.taught.teacher=null", "'taught' learns from a teacher: set stages.taught.teacher"),
        ("stages.taught.teacher=taught", "is the stage itself"),
        ("stages.taught.teacher=wdie", "'wdie', which is no stage of the recipe"),
        ("stages.wide.teacher=taught", "stages.wide.teacher=taught would be ignored"),
        ("stages.taught.networks.widht=3", "did you mean 'stages.taught.networks.width'"),
        ("stages.taught.networks.scale=2", "must be networks.scale=4"),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_starts(
    dataset: Path, setting: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        configure(dataset, setting)


@pytest.mark.parametrize("teacher", ["bicubic", "onnx:model.onnx"])
def test_only_networks_teach(dataset: Path, teacher: str) -> None:
    with pytest.raises(UserError, match=r"cannot teach|there is no file"):
        find_teacher(configure(dataset, f"stages.taught.teacher={teacher}"), "taught")


def test_networks_on_the_command_line_beat_those_of_a_stage(dataset: Path) -> None:
    config = configure(dataset, "networks.width=8")
    assert [config.stages[name].networks.width for name in ("wide", "taught")] == [8, 8]
    config = configure(dataset, "networks.width=8", "stages.taught.networks.width=2")
    assert [config.stages[name].networks.width for name in ("wide", "taught")] == [8, 2]
