"""A run's identity, and the decisions that rest on it: done, ended, may resume."""

import pickle
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config.load import to_dict
from pipelines.config.schema import Config, GroupConfig
from pipelines.data.dataset import open_dataset
from pipelines.errors import Terminated, UserError
from pipelines.runs.checkpoint import MODEL, Checkpoint, RunState
from pipelines.runs.writer import write_weights
from pipelines.training.stage_run import StageRun, Tracked, check_resumable, ended, is_done
from pipelines.training.teacher import Teacher
from tests.support.checkpoints import at, damage, open_writer
from tests.support.training import configure

STAGE = "autoencoder"
Describe = Callable[..., StageRun]


@pytest.fixture(scope="module")
def config(dataset: Path) -> Config:
    return configure(dataset)


@pytest.fixture
def describe(config: Config) -> Describe:
    """Describes the run of a stage of the small recipe, with some settings changed."""

    def run(
        settings: Mapping[str, Any] | None = None,
        *,
        stage: str = STAGE,
        start: Checkpoint | None = None,
        teacher: Teacher | None = None,
    ) -> Any:
        own = deepcopy(config)
        for key, value in (settings or {}).items():
            put(own, key, value)
        return StageRun.of(own, stage, open_dataset(own.data, own.stream), start, teacher)

    return run


def put(config: Config, key: str, value: Any) -> None:
    """Sets a value without a command line, since reading one takes a third of a second."""
    *sections, last = key.split(".")
    node: Any = config
    for name in sections:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    assert hasattr(node, last), key
    setattr(node, last, value)


def of_stage(**settings: Any) -> dict[str, Any]:
    """Settings of the stage's `train`, by their whole keys."""
    return {f"stages.{STAGE}.train.{key}": value for key, value in settings.items()}


def state(run: StageRun, step: int, **changed: Any) -> RunState:
    known = RunState(
        step=step,
        samples=4 * step,
        world_size=1,
        zero_stage=run.train.zero_stage,
        seed=run.config.seed,
        manifest=run.dataset.manifest.digest,
        identity=run.identity,
        metrics={"train/loss": 0.25},
        score=None,
        config=to_dict(run.config),
        stage=run.stage,
        networks=asdict(run.config.stages[run.stage].networks),
    )
    return replace(known, **changed)


def save(run: StageRun, step: int, **changed: Any) -> Checkpoint:
    """Writes a checkpoint of this run, without an engine."""
    writer = open_writer(run.checkpoints, f"a{step}")
    weights = {"weight": torch.full((3,), float(step))}
    write_weights(writer.folder(step), weights, {}, state(run, step, **changed))
    writer.publish(step)
    writer.wait()
    writer.close()
    return at(run.checkpoints, step)


def changed(one: StageRun, other: StageRun) -> set[str]:
    """The keys in which two identities differ."""
    keys = one.identity.keys() | other.identity.keys()
    return {key for key in keys if one.identity.get(key) != other.identity.get(key)}


def test_settings_that_shape_the_samples_are_part_of_it(describe: Describe) -> None:
    run = describe()
    assert run.identity["data"] == run.dataset.manifest.digest
    for key, value, named in (
        ("seed", 1, "seed"),
        ("stream.window", 1, "order"),
        ("stream.lanes", 1, "order"),
        ("degradation.preset", "bsrgan", "degradation"),
    ):
        assert changed(run, describe({key: value})) == {named}, key


def test_the_stages_own_networks_and_options_are_part_of_it(describe: Describe) -> None:
    run = describe(stage="decoder")
    for key, value, named in (
        ("stages.decoder.networks.decoder.channels", [16], "networks"),
        ("stages.decoder.options.lpips_weight", 1.0, "options"),
    ):
        assert changed(run, describe({key: value}, stage="decoder")) == {named}


def test_settings_that_shape_the_steps_are_part_of_it(describe: Describe) -> None:
    run = describe()
    for key, value in {
        "batch_size": 2,
        "crop": 32,
        "decay_factor": 0.1,
        "decay_steps": [2],
        "ema_half_life": 3.0,
        "gradient_clip": 0.5,
        "groups": {"decoder": GroupConfig(learning_rate=0.5)},
        "learning_rate": 0.5,
        "precision": "bf16",
        "steps": 8,
        "warmup_steps": 3,
        "weight_decay": 0.5,
    }.items():
        assert changed(run, describe(of_stage(**{key: value}))) == {f"train.{key}"}


def test_settings_that_a_resumed_run_may_change_are_not(describe: Describe) -> None:
    other = of_stage(
        accept_changed_data=True, accelerator="cuda", activation_checkpointing=True,
        channels_last=True, checkpoint_every=1, compile=True, keep_best=1, keep_checkpoints=5,
        keep_every=2, loader_processes=1, log_every=3, max_failures=1, max_skipped_steps=1,
        micro_batch_size=1, profile=[0, 1], threads_per_worker=2, validate_crop=64,
        validate_every=1, validate_images=2, workers=2, zero_stage=2,
    )  # fmt: skip
    assert changed(describe(), describe(other)) == set()


def test_places_names_and_other_stages_are_not(describe: Describe) -> None:
    other = {
        "run.name": "other",
        "run.storage": "elsewhere",
        "run.scratch": "elsewhere",
        "stream.cache": "elsewhere",
        "mlflow.experiment": "other",
        "export.tile": 64,
        "stages.joint.train.learning_rate": 0.5,
        "stages.joint.networks.decoder.channels": [16],
    }
    assert changed(describe(), describe(other)) == set()


def test_a_constant_rate_leaves_the_number_of_steps_out(describe: Describe) -> None:
    constant = of_stage(schedule="constant")
    assert changed(describe(constant), describe(constant | of_stage(steps=8))) == set()
    groups = constant | of_stage(groups={"decoder": GroupConfig(learning_rate=0.1)})
    assert changed(describe(groups), describe(groups | of_stage(steps=8))) == set()


def test_a_group_whose_rate_falls_keeps_the_number_of_steps_in(describe: Describe) -> None:
    cosine = of_stage(schedule="constant", groups={"decoder": GroupConfig(schedule="cosine")})
    assert changed(describe(cosine), describe(cosine | of_stage(steps=8))) == {"train.steps"}


def test_first_weights_and_teacher_are_part_of_it(describe: Describe) -> None:
    run = describe({"run.name": "first"})
    start = save(run, 4)
    begun = describe(start=start)
    assert changed(describe(), begun) == {"initial weights"}
    assert begun.identity["initial weights"] == start.files[MODEL].sha256
    taught = describe(teacher=Teacher("wide", "digest", start))
    assert changed(describe(), taught) == {"teacher"}
    assert taught.identity["teacher"] == "digest"


def test_it_reaches_the_workers_as_it_is(describe: Describe) -> None:
    start = save(describe({"run.name": "first"}), 4)
    run = describe(start=start, teacher=Teacher("wide", "digest", start))
    there = pickle.loads(pickle.dumps(run))
    assert (there.config, there.identity) == (run.config, run.identity)
    assert there.dataset.manifest.digest == run.dataset.manifest.digest
    assert there.checkpoints.location == run.checkpoints.location
    assert torch.equal(there.start.weights()["weight"], torch.full((3,), 4.0))
    assert there.teacher.source.location == start.location
    assert (there.train, there.name) == (run.train, "small-autoencoder")


def test_its_text_holds_no_password(describe: Describe) -> None:
    """Ray Train keeps the text of a run for its dashboard."""
    run = replace(describe(), tracked=Tracked("http://me:secret@tracking", "id"))
    assert "secret" not in str(run)
    assert pickle.loads(pickle.dumps(run)).tracked == run.tracked


def test_a_run_is_done_at_its_last_step(
    describe: Describe, capsys: pytest.CaptureFixture[str]
) -> None:
    run = describe()
    assert not is_done(run)
    save(run, 2)
    assert not is_done(run)
    save(run, 4)
    assert is_done(run)
    assert capsys.readouterr().out == "Nothing to do: small-autoencoder is trained already.\n"


def test_a_damaged_result_is_not_done(describe: Describe) -> None:
    run = describe()
    save(run, 2)
    damage(save(run, 4), MODEL, "flip")
    assert not is_done(run)


def test_a_run_with_more_steps_is_refused(describe: Describe) -> None:
    constant = of_stage(schedule="constant")
    save(describe(constant | of_stage(steps=6)), 6)
    with pytest.raises(UserError, match=r"has 6 steps already, more than train\.steps=4"):
        is_done(describe(constant))


def test_another_zero_stage_matters_only_to_an_unfinished_run(describe: Describe) -> None:
    run = describe(of_stage(zero_stage=2))
    save(run, 2, zero_stage=1)
    with pytest.raises(UserError, match=r"started with train\.zero_stage=1 and can only resume"):
        is_done(run)
    save(run, 4, zero_stage=1)
    assert is_done(run)


def test_a_run_that_ended_tells_its_loss(
    describe: Describe, capsys: pytest.CaptureFixture[str]
) -> None:
    run = describe()
    save(run, 4)
    ended(run)
    assert capsys.readouterr().out == "Trained small-autoencoder: loss 0.2500\n"


def test_a_run_without_a_loss_ends_too(
    describe: Describe, capsys: pytest.CaptureFixture[str]
) -> None:
    run = describe()
    save(run, 4, metrics={"steps/skipped": 4.0})
    ended(run)
    assert capsys.readouterr().out == "Trained small-autoencoder: loss nan\n"


def test_a_run_that_was_stopped_says_how_to_go_on(describe: Describe) -> None:
    run = describe()
    save(run, 2)
    with pytest.raises(Terminated, match="is saved at step 2 of 4: start the same command again"):
        ended(run)


def test_a_run_resumes_with_its_own_settings_only(describe: Describe) -> None:
    run = describe()
    known = state(run, 2)
    check_resumable(run.name, known, run.identity, 0)
    other = run.identity | {"seed": 1, "train.crop": 32}
    with pytest.raises(UserError, match=r"other settings \(seed, train\.crop\): set another run"):
        check_resumable(run.name, known, other, 0)
    with pytest.raises(UserError, match=r"other settings \(train\.new\)"):
        check_resumable(run.name, known, run.identity | {"train.new": 1}, 0)


def test_another_dataset_is_accepted_on_request_and_nothing_else_with_it(
    describe: Describe, capsys: pytest.CaptureFixture[str]
) -> None:
    run = describe()
    known, other = state(run, 2), run.identity | {"data": "other"}
    with pytest.raises(UserError, match=rf"manifests/{known.manifest}\.json"):
        check_resumable(run.name, known, other, 0)
    check_resumable(run.name, known, other, 0, accept_changed_data=True)
    assert capsys.readouterr().out == "small-autoencoder: goes on with another dataset, other.\n"
    with pytest.raises(UserError, match=r"other settings \(data, seed\)"):
        check_resumable(run.name, known, other | {"seed": 1}, 0, accept_changed_data=True)
