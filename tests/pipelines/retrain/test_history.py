"""Every retraining leaves a record; register and gate are real, and so is the S3 server."""

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.errors import NotPromotedError, Terminated, UserError
from pipelines.registry import actions
from pipelines.retrain import Step, plan, run, settled, work
from pipelines.retrain.history import (
    SILENT_S,
    Cost,
    Given,
    Photos,
    Retraining,
    Retrainings,
    Verdict,
    given,
    model_store,
    table,
)
from pipelines.storage.clock import utc
from pipelines.storage.store import open_store
from tests.conftest import SMALL, write_dataset
from tests.support.photos import noise, sample, save
from tests.support.retraining import TAUGHT, only_register, with_bundle

RECORD = Retraining(
    Given("p", "c", None, "6"),
    run="small-1f0c7a52",
    model="small",
    started="2026-11-29T02:00:04Z",
    updated="2026-11-29T03:12:04Z",
    ended="2026-11-29T03:12:04Z",
    before=Photos("a", 100),
    after=Photos("b", 152),
    steps=300,
    cost=Cost(1.2, 0.913, 4.5),
    registered="7",
    against="6",
    verdict=Verdict.PROMOTED,
    reason="better by psnr_y",
)


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, photos: Path, tmp_path: Path) -> list[str]:
    """The settings of a retraining whose records are in a folder, and under s3://."""
    common = [f"recipe={TAUGHT}", f"source={photos}", f"data={tmp_path / 'shards'}"]
    if request.param == "local":
        return common
    return [*common, f"retrain.records={request.getfixturevalue('s3_url')}/records"]


Retrain = Callable[..., Config]


@pytest.fixture
def retrain(settings: list[str], photos: Path, tmp_path: Path, monkeypatch: Any) -> Retrain:
    """Runs a chain whose bundle is there already, with a score, so that it shards and registers."""
    only_register(monkeypatch, lambda: write_dataset(photos, tmp_path / "shards"))

    def retrain(name: str, psnr: float = 30.0, *more: str) -> Config:
        config = with_bundle([*settings, f"run.name={name}", *more], psnr)
        run(config)
        return config

    return retrain


def records(settings: list[str]) -> list[Retraining]:
    return Retrainings(model_store(load_config(settings))).all()


def test_the_history_tells_each_retraining_with_its_verdict(
    retrain: Retrain, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    history = load_config([*settings, "action=history"])
    run(history)
    assert capsys.readouterr().out.startswith("taught has had no retraining yet: ")
    retrain("first")
    time.sleep(1.1)  # a record's time has whole seconds
    with pytest.raises(NotPromotedError):
        retrain("worse", 29.5)
    first, worse = reversed(records(settings))
    assert (first.verdict, first.registered, first.against) == (Verdict.PROMOTED, "1", None)
    assert (worse.verdict, worse.registered, worse.against) == (Verdict.REFUSED, "2", "1")
    assert (first.given.champion, worse.given.champion) == (None, "1")
    assert worse.reason.startswith("worse by psnr_y_crop4")
    assert (first.before, first.photos_added, worse.photos_added) == (None, 6, 0)
    assert first.cost.wall_hours > 0
    assert first.ended is not None
    assert first.ended >= first.started

    capsys.readouterr()
    run(history)
    titles, *lines = capsys.readouterr().out.splitlines()
    assert titles.split()[:3] == ["started", "verdict", "run"]
    assert [line.split()[1:3] for line in lines] == [["refused", "worse"], ["promoted", "first"]]
    other = load_config([*settings, "action=history", "mlflow.model=other"])
    run(other)
    assert "other has had no retraining yet" in capsys.readouterr().out
    assert plan(history).startswith("print the retrainings of 'taught' in ")


def test_a_retraining_without_anything_new_writes_no_record(
    retrain: Retrain, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = retrain("first")
    store = open_store(config.retrain.records)
    before = store.stamps()
    capsys.readouterr()
    run(config)
    assert "Nothing to do: all 6 steps have the inputs" in capsys.readouterr().out
    assert store.stamps() == before


@pytest.mark.parametrize(
    "settings", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)
def test_a_retraining_whose_new_photos_are_junk_has_nothing_to_do(
    settings: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, report = tmp_path / "photos", tmp_path / "shards" / "report.json"
    shutil.copytree(photos, source)
    only_register(monkeypatch, lambda: write_dataset(source, tmp_path / "shards"))
    arguments = [*settings, f"source={source}"]
    run(with_bundle([*arguments, "run.name=first"], 30.0))
    # Under the name of the last retraining, and under one of its own, as a trigger gives it.
    whys = {
        "first": "all 6 steps have the inputs that they had",
        "second": f"no photo that can be trained on has come since run first ({report} names what",
    }
    for number, (name, why) in enumerate(whys.items()):
        save(noise("uniform", 200, number), source / f"noise {number}.png")
        config = load_config([*arguments, f"run.name={name}"])
        capsys.readouterr()
        assert run(config) == "1"
        said = capsys.readouterr().out
        assert f"Nothing to do: {why}" in said
        assert ("── 1/6" in said, "── 2/6" in said) == (True, False)
        record = next(record for record in records(settings) if record.reason.startswith(why))
        ended = record.verdict, record.registered, record.photos_added
        assert ended == (Verdict.NOTHING, None, 0)
        # The next tick looks at the listing alone.
        before = open_store(config.retrain.records).stamps()
        with monkeypatch.context() as patch:
            patch.setattr(work, "connect", lambda: pytest.fail("something was started"))
            assert run(config) == "1"
        said = capsys.readouterr().out
        assert f"Nothing to do: {why}" in said
        assert ". The result is taught version 1.\n" in said
        with monkeypatch.context() as patch:  # the registry is not asked
            patch.setattr("pipelines.tracking.connect", lambda *_: pytest.fail("asked"))
            assert f"nothing to do: {why}" in plan(config)
        assert open_store(config.retrain.records).stamps() == before
    run(load_config([*arguments, "action=history"]))
    assert capsys.readouterr().out.count("  nothing new  ") == 2

    # What comes while the photos are sharded waits for the next tick.
    def shard_and_more() -> None:
        write_dataset(source, tmp_path / "shards")
        save(noise("uniform", 200, 8), source / "late noise.png")

    save(noise("uniform", 200, 7), source / "noise 7.png")
    with monkeypatch.context() as patch:
        only_register(patch, shard_and_more)
        assert run(load_config([*arguments, "run.name=meanwhile"])) == "1"
    # Other settings are something to do, and so are another champion and a good photo.
    with pytest.raises(UserError, match="there is no bundle in "):
        run(load_config([*arguments, "run.name=third", "seed=1"]))
    with monkeypatch.context() as patch:
        patch.setattr(settled, "_champion", lambda _: "7")
        with pytest.raises(UserError, match="there is no bundle in "):
            run(load_config([*arguments, "run.name=another"]))
    save(sample(8, 0.3), source / "good.png")
    with pytest.raises(UserError, match="there is no bundle in "):
        run(load_config([*arguments, "run.name=fourth"]))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (UserError("no bucket 'photos'"), Verdict.FAILED),
        (Terminated("saved"), Verdict.INTERRUPTED),
        (KeyboardInterrupt(), Verdict.INTERRUPTED),
    ],
)
def test_a_retraining_that_ended_early_goes_on_in_its_record(
    error: BaseException,
    verdict: Verdict,
    retrain: Retrain,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    do = work.run_here

    def fail(step: Step, *_: object) -> Any:
        if step.job == "evaluate":
            raise error
        return do(step)

    with monkeypatch.context() as patch:
        patch.setattr(work, "run_here", fail)
        with pytest.raises(type(error)):
            retrain("first")
    (ended,) = records(settings)
    assert (ended.verdict, ended.step, ended.registered) == (verdict, "evaluate", None)
    assert ended.photos_added == 6
    retrain("first")
    (done,) = records(settings)
    assert (done.verdict, done.step, done.starts) == (Verdict.PROMOTED, "register", 2)
    assert done.given == ended.given
    assert done.started == ended.started
    assert done.cost.wall_hours > ended.cost.wall_hours
    assert done.photos_added == 6


def test_a_killed_retraining_is_told_as_interrupted(retrain: Retrain, settings: list[str]) -> None:
    now = time.time()
    recent = replace(RECORD, verdict=Verdict.RUNNING, updated=utc(now), reason="", step="export")
    assert " running " in table([recent], now)[1]
    assert " interrupted " in table([recent], now + SILENT_S + 2)[1]
    # The next retraining of the model knows for certain, since it has the lease.
    kept = Retrainings(model_store(load_config(settings)))
    kept.save(recent)
    retrain("first")
    assert [record.verdict for record in records(settings)] == ["promoted", "interrupted"]


def test_the_table_is_for_people() -> None:
    running = replace(
        RECORD, run="b", verdict=Verdict.RUNNING, after=None, registered=None, against=None,
        reason="", step="stage joint", cost=Cost(31.26),
    )  # fmt: skip
    titles, first, second = table([running, RECORD], 0.0)
    assert re.split(r"\s\s+", titles) == [
        "started", "verdict", "run", "photos", "steps", "hours", "GPU hours", "version", "champion",
        "reason",
    ]  # fmt: skip
    assert second == (
        "2026-11-29T02:00:04Z  promoted  small-1f0c7a52  +52     300    1.2    0.913      "
        "7        6         better by psnr_y"
    )
    assert re.split(r"\s\s+", first) == [
        "2026-11-29T02:00:04Z", "running", "b", "300", "31.3", "0", "at stage joint",
    ]  # fmt: skip
    assert "\n" not in table([replace(RECORD, reason="a\nb", run="\x1b[31m")], 0.0)[1]


def test_photos_settings_code_and_champion_decide_the_digest(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(*settings: str, champion: str | None = "1", source: Path = photos) -> str:
        config = load_config([f"recipe={SMALL}", f"source={source}", *settings])
        return given(config, champion).digest

    before = digest()
    assert before == digest("retrain.max_hours=3", "retrain.max_gpu_hours=2")
    assert before == digest("notify.mail=me@example.org", "notify.smtp=smtp://host")
    assert before == digest("retrain.records=elsewhere")
    more = tmp_path / "more"
    shutil.copytree(photos, more)
    other = {
        "photos": digest(source=more),
        "setting": digest("train.steps=9"),
        "champion": digest(champion="2"),
        "none": digest(champion=None),
    }
    shutil.copy(next(photos.iterdir()), more / "another.png")
    other["another photo"] = digest(source=more)
    monkeypatch.setattr("pipelines.retrain.history.git_commit", lambda: "another commit")
    other["code"] = digest()
    assert len({before, *other.values()}) == 1 + len(other)


def test_a_dry_run_tells_of_an_earlier_start(
    retrain: Retrain, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("broken")

    monkeypatch.setattr(work, "run_here", fail)
    with pytest.raises(UserError, match="broken"):
        retrain("first")
    config = load_config([*settings, "run.name=first", "retrain.max_hours=2"])
    lease, record, budget = plan(config).splitlines()[-3:]
    assert lease == "lease: nobody retrains 'taught' now"
    assert record.startswith("record: the same photos, configuration and code were tried at 20")
    assert record.endswith(" (champion none, 1 start): failed: broken")
    assert re.fullmatch(r"budget: 0(\.\d+)? of 2 hours are spent", budget)


def test_an_action_of_another_job_is_refused() -> None:
    with pytest.raises(UserError, match=r"action=rollback is one of jobs/register\.py"):
        run(load_config([f"recipe={SMALL}", "action=rollback"]))
    with pytest.raises(UserError, match=r"action=retrain is one of jobs/retrain\.py"):
        actions.plan(load_config([f"recipe={SMALL}", "action=retrain"]))
