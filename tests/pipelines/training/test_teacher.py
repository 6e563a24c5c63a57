"""Stages whose networks differ, one of which learns from the other."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.methods import NetworkMethod
from pipelines.export import export
from pipelines.models.build import stage_on_meta
from pipelines.models.bundle import load_bundle
from pipelines.models.load import load_model
from pipelines.runs.checkpoint import Checkpoint
from pipelines.runs.names import run_checkpoints
from pipelines.training.cost import training_cost
from pipelines.training.launch import run_stages
from pipelines.training.plan import plan_stages
from pipelines.training.teacher import find_teacher
from srmodels.compression.structure import own_numbers
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
    assert own_numbers(taught.state().networks) == {"scale": 4, "width": 4}

    model = load_model(ModelReference.parse("run:taught-taught"), config)
    assert model.config.networks.width == 4
    assert model.network(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)

    evaluate.run(configure(dataset, "model=run:taught-taught"))
    bundle = load_bundle(Path(export.run(configure(dataset, "model=run:taught-taught"))))
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
    module = teacher.load(torch.device("cpu"))
    x_l = torch.rand(1, 3, 16, 16)
    assert torch.equal(module(x_l), bundle.network()(x_l))


def test_a_begun_run_keeps_its_teacher_whatever_becomes_of_the_bundle(
    dataset: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", SMALL)
    config = configure(dataset, f"stages.taught.teacher={bundle.path}")
    [taught] = train(config, "taught")
    begun = find_teacher(config, "taught")
    assert begun is not None
    shutil.rmtree(bundle.path)
    kept = find_teacher(config, "taught")
    assert kept is not None
    assert kept.identity == begun.identity
    # Its plan, what its workers count, and the run itself need the bundle no more either.
    assert "taught (" in plan_stages(config, ["taught"])
    assert training_cost(config, "taught", kept) == training_cost(config, "taught")
    [again] = train(config, "taught")
    assert again.location == taught.location
    # Another run of this name asks anew.
    shutil.rmtree(taught.run.location)
    with pytest.raises(UserError, match="there is no model"):
        find_teacher(config, "taught")


def test_workers_count_a_teacher_without_its_source(dataset: Path, tmp_path: Path) -> None:
    """They know no registry, and the run has no checkpoint yet."""
    bundle = make_bundle(tmp_path / "bundle", SMALL)
    config = configure(dataset, f"stages.taught.teacher={bundle.path}")
    planned, teacher = training_cost(config, "taught"), find_teacher(config, "taught")
    shutil.rmtree(bundle.path)
    assert training_cost(config, "taught", teacher) == planned


def test_teachers_with_other_averages_are_other_teachers(dataset: Path) -> None:
    found, checkpoints = [], []
    for half_life in (1, 9):
        name = (f"run.name=half-life-{half_life}", f"train.ema_half_life={half_life}")
        config = configure(dataset, *name)
        checkpoints += train(config, "wide")
        found.append(find_teacher(config, "taught"))
    first, second = (checkpoint.live_weights() for checkpoint in checkpoints)
    assert all(bool((first[name] == second[name]).all()) for name in first)
    one, other = found
    assert one is not None
    assert other is not None
    assert one.identity != other.identity
    module, x_l = one.load(torch.device("cpu")), torch.rand(1, 3, 8, 8)
    averaged = module.state_dict()["body.0.weight"]
    assert torch.equal(averaged, checkpoints[0].ema()["body.0.weight"])
    assert module(x_l).shape == (1, 3, 32, 32)


def test_a_stage_that_was_trained_for_another_scale_does_not_teach(dataset: Path) -> None:
    train(configure(dataset, "networks.scale=2"), "wide")
    with pytest.raises(
        UserError, match=r"stages\.taught\.teacher enlarges by 2 and the recipe by 4"
    ):
        find_teacher(configure(dataset), "taught")


class Nearest(NetworkMethod):
    """Stands for others' network. Its factor is a parameter, as theirs are."""

    reference, title, scale, identity = "span", "Nearest", 4, "nearest"

    def __init__(self) -> None:
        self.factor = torch.nn.Parameter(torch.ones(()))

    def run(self, x_l: Tensor) -> Tensor:
        assert x_l.device.type == "cpu"
        assert not x_l.requires_grad
        return self.factor * torch.nn.functional.interpolate(x_l, scale_factor=4)


def test_the_network_of_others_travels_to_the_workers(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(dataset, "stages.taught.teacher=span")
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.training.teacher.open_method", lambda *_: Nearest())
        teacher = find_teacher(config, "taught")
    assert teacher is not None
    assert teacher.identity == "nearest"
    # Nobody there opens it again: its file may be on the driver's node alone.
    there = pickle.loads(pickle.dumps(teacher))
    x_l = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    x_h = there.load(torch.device("cpu"))(x_l)
    assert (x_h.shape, x_h.dtype) == ((1, 3, 32, 32), torch.float64)
    assert not x_h.requires_grad
    assert training_cost(config, "taught", there) == training_cost(config, "taught")


def test_a_teacher_that_comes_too_late_is_noticed_before_anything_is_trained(
    dataset: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "late.yaml"
    recipe.write_text(f"base: {RECIPE}\nstages: {{first: {{kind: wide}}}}\n")
    config = load_config([f"recipe={recipe}", f"data={dataset}"])
    with pytest.raises(UserError, match="'taught' learns from stage 'wide'"):
        train(config, "first", "taught", "wide")
    assert run_checkpoints(config, "late-first").steps() == []


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
    with pytest.raises(
        UserError, match=r"'taught' learns from stage 'wide'.*run jobs/train\.py stage=wide first"
    ):
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
        ("stages.wide.teacher=taught", "stages.wide.teacher='taught' would be ignored"),
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
