"""Headings, records and the dry run of a chain; tests/test_end_to_end.py runs one for real."""

import os
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.errors import NotPromotedError, UserError
from pipelines.registry import register
from pipelines.retrain import Step, chain, follow, plan, work
from pipelines.retrain.records import Record, load, records_of, save
from pipelines.retrain.settled import settled
from pipelines.retrain.work import run, run_here
from pipelines.storage.ownership import files_in
from pipelines.storage.store import Store, open_store
from tests.conftest import SMALL
from tests.support.bundles import make_bundle
from tests.support.retraining import TAUGHT


def records(run: str) -> Store:
    return records_of(load_config([f"recipe={SMALL}", f"run.name={run}"]))


def steps(**values: object) -> list[Step]:
    config = load_config([f"recipe={SMALL}"])
    return [
        Step(name, "train", (), config, lambda value=value: {"manifest": value})
        for name, value in values.items()
    ]


def test_every_step_gets_a_heading_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(steps(a=1, b=2), lambda step: step.name) == "b"
    follow(steps(a=1, b=3), lambda step: step.name)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["── 1/2 a: runs: never done", "── 2/2 b: runs: never done"]
    assert lines[2].startswith("── 1/2 a: same inputs as before (")
    assert lines[3] == "── 2/2 b: runs: manifest changed"


def test_a_step_with_the_same_inputs_checks_its_result() -> None:
    done: list[str] = []
    for _ in range(2):
        follow(steps(a=1), lambda step: done.append(step.name))
    assert done == ["a", "a"]


def test_a_stage_that_needs_a_later_one_is_refused_before_the_first_step(tmp_path: Path) -> None:
    recipe = tmp_path / "late.yaml"
    recipe.write_text(f"base: {TAUGHT}\nstage1: [taught]\nstage2: [wide]\n")
    with pytest.raises(UserError, match="'taught' learns from stage 'wide'"):
        run(load_config([f"recipe={recipe}"]))
    assert records("late").names() == []


def test_only_a_step_that_succeeded_leaves_a_record() -> None:
    def work(step: Step) -> None:
        if step.name == "b":
            raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        follow(steps(a=1, b=2, c=3), work)
    store = records("small")
    assert load(store, "a") == Record("a", {"manifest": 1})
    assert store.names() == ["a.json"]


def test_the_record_holds_the_inputs_that_a_step_began_with() -> None:
    values = ["before", "after"]
    [step] = steps(a=0)
    step = Step(step.name, step.job, (), step.config, lambda: {"manifest": values[0]})
    follow([step], lambda _: values.pop(0))
    assert load(records("small"), "a") == Record("a", {"manifest": "before"})


def test_a_dry_run_tells_the_reason_and_the_plan_of_each_step(photos: Path, dataset: Path) -> None:
    arguments = [f"recipe={SMALL}", f"source={photos}", f"data={dataset}"]
    told = plan(load_config(arguments)).splitlines()
    heads = [line for line in told if re.match(r"\d\. ", line)]
    assert heads == [
        f"{number}. {name}: runs: never done"
        for number, name in enumerate(
            ["shard", "stage autoencoder", "stage joint", "stage decoder", "evaluate", "export",
             "register"], 1,
        )
    ]  # fmt: skip
    assert told[1].startswith("6 photo files")
    assert not Path(os.environ["SRMILL_HOME"]).exists()

    save(records("small"), Record("stage joint", {"manifest": "other"}))
    config = load_config(arguments)
    save(records("small"), Record("register", chain(config)[-1].inputs()))
    told = plan(config).splitlines()
    assert "3. stage joint: runs: manifest, start, " in "\n".join(told)
    assert told[-5].startswith("7. register: same inputs as before (")
    assert told[-5].endswith("checks its result, unless a step before changes them")
    assert told[-3:] == [
        "lease: nobody retrains 'small' now",
        "record: nothing was tried with these photos, this configuration and this code",
        "budget: no limit; 0 hours, 0 GPU hours are spent",
    ]


def test_stages_follow_each_other_and_are_not_trained_again(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stages run in this process, without Ray."""
    arguments = [f"recipe={SMALL}", f"data={dataset}", "train.workers=0", "stage1=[autoencoder]",
                 "stage2=[joint]"]  # fmt: skip
    stages = chain(load_config(arguments))[1:3]
    follow(stages, run_here)
    told = capsys.readouterr().out
    assert "Trained small-autoencoder: loss" in told
    assert "Trained small-joint: loss" in told
    follow(stages, run_here)
    told = capsys.readouterr().out
    assert told.count("same inputs as before (") == told.count("Nothing to do") == 2
    # The weights that a stage starts from are of the run before it.
    assert stages[1].inputs()["start"]
    other = chain(load_config([*arguments, "run.name=other"]))[2]
    assert other.inputs()["start"] is None


def test_results_of_the_chain_go_to_a_bucket(
    dataset: Path, ran: list, s3_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the shards, which the tests of the data plane write."""
    arguments = [
        f"recipe={TAUGHT}", f"data={dataset}", f"output={s3_url}/out", "train.steps=1",
        "stage1=[wide]", "stage2=[]", "evaluate.metrics=[psnr_y]", "evaluate.latency_sizes=[16]",
        "evaluate.latency_runs=1", "evaluate.num_pictures=0", "export.artifacts=[]",
    ]  # fmt: skip
    config = load_config(arguments)
    steps = chain(config)[1:]
    assert follow(steps, run_here) == "1"
    written = open_store(f"{s3_url}/out").names()
    assert {"evaluate/taught-wide/results.json", "export/taught/bundle.json"} <= set(written)
    told = capsys.readouterr().out
    assert f"Bundle: {s3_url}/out/export/taught" in told
    assert "Promoted: taught@champion is version 1" in told

    # A tick without anything new ends there, and starts nothing.
    found = settled(config, steps)
    assert found is not None
    assert found[0] == "1"
    other = load_config([*arguments, "seed=1"])
    assert settled(other, chain(other)[1:]) is None
    # Again: each step finds its result in the bucket.
    follow(steps, run_here)
    told = capsys.readouterr().out
    assert told.count("same inputs as before (") == told.count("Nothing to do") == len(steps)
    assert open_store(f"{s3_url}/out").names() == written
    work = Path(os.environ["SRMILL_HOME"]) / "work"
    assert not [folder for folder in ("evaluate", "export") if (work / folder).exists()]


def nothing_runs(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Lets every step succeed without doing anything; the last one returns this version."""
    monkeypatch.setattr(work, "run_here", lambda *_: version)
    monkeypatch.setattr(work, "connect", nullcontext)
    monkeypatch.setattr(work, "check_sources", lambda *_: None)


def test_a_refused_model_is_told_once_all_steps_are_done(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"recipe={SMALL}", f"source={photos}", f"data={tmp_path / 'shards'}"]
    config = load_config(arguments)
    worse = make_bundle(Path(register.bundle_location(chain(config)[-1].config)), psnr=29.0)
    for path in (make_bundle(tmp_path / "first").path, worse.path):
        version = register.run(load_config([*arguments, f"bundle={path}"]))
    nothing_runs(monkeypatch, version)
    with pytest.raises(NotPromotedError, match=r"small version 2: worse by psnr_y_crop4, better"):
        run(config)
    # Its record is there all the same. Where nothing is new, nothing is refused.
    assert load(records("small"), "register") is not None
    assert run(config) == "2"


def test_nothing_new_ends_at_once_without_ray(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [f"recipe={TAUGHT}", f"source={photos}", f"data={tmp_path / 'shards'}"]
    config = load_config(arguments)
    bundle = make_bundle(Path(register.bundle_location(chain(config)[-1].config)))
    version = register.run(load_config([*arguments, f"bundle={bundle.path}", "gate.benchmark=[]"]))
    nothing_runs(monkeypatch, version)
    run(config)  # records that each step succeeded, which none was asked to do here

    def fail(*_: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(work, "connect", fail)
    monkeypatch.setattr(work, "run_here", fail)
    before = files_in(Path(os.environ["SRMILL_HOME"]))
    capsys.readouterr()
    assert run(config) == "1"
    assert capsys.readouterr().out == (
        "Nothing to do: all 6 steps have the inputs that they had. The result is taught version 1."
        "\nChampion: models:/taught@champion = version 1\n"
    )
    assert files_in(Path(os.environ["SRMILL_HOME"])) == before
    # One more photo, and there is.
    more = tmp_path / "more"
    shutil.copytree(photos, more)
    shutil.copy(next(photos.iterdir()), more / "another.png")
    with pytest.raises(AssertionError, match="something was started"):
        run(load_config([*arguments[:1], f"source={more}", arguments[2]]))
