"""Which runs may go, and what is left of them; registry and S3 server are real."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import tracking
from pipelines.cli.command import run as srmill
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.registry import register
from pipelines.retention.runs import Rule, find_runs, remove
from pipelines.retrain.history import Given, Retrainings, Verdict, store_of
from pipelines.runs.lease import lease, of_run
from pipelines.runs.names import run_checkpoints
from pipelines.runs.outside import keep_weights
from pipelines.storage.clock import from_utc, utc
from pipelines.storage.store import open_store
from tests.conftest import SMALL
from tests.pipelines.retrain.test_history import RECORD
from tests.support.bundles import make_bundle
from tests.support.checkpoints import write

DAY = 86_400.0
NOW = from_utc("2026-12-31T00:00:00Z")
MONTH = Rule(NOW - 30 * DAY, keep=1)
MODEL = "small"


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    place = tmp_path if request.param == "local" else request.getfixturevalue("s3_url")
    return [f"recipe={SMALL}", f"run.storage={place}/runs", f"retrain.records={place}/records"]


def keep(
    config: Config,
    run: str,
    days_ago: float,
    verdict: Verdict = Verdict.PROMOTED,
    version: str | None = None,
    model: str = MODEL,
) -> None:
    """Keeps the record of a retraining, and the checkpoints of its two stages."""
    ended = utc(NOW - days_ago * DAY)
    given = Given(run, "c", None, None)
    record = replace(RECORD, given=given, run=run, registered=version, verdict=verdict)
    record = replace(record, started=ended, updated=ended, ended=ended)
    if verdict is Verdict.RUNNING:
        record = replace(record, ended=None)
    Retrainings(store_of(config, model)).save(record)
    train(config, run)


def train(config: Config, run: str, folder: str | None = None) -> None:
    """Leaves what a training leaves: checkpoints of two stages, and the first weights of one. In
    another `folder`, they are what somebody has copied there."""
    folder = folder or run
    own = copy.deepcopy(config)
    own.run.name = run
    for stage in ("joint", "decoder"):
        keep_weights(
            own, f"{folder}-{stage}", stage=stage, described_by=own, asked={}, content=run,
            make=lambda: {"weight": torch.zeros(3000)},
        )  # fmt: skip
    write(run_checkpoints(config, f"{folder}-joint-init"), "a", 0)


def reasons(config: Config, rule: Rule = MONTH) -> dict[str, str | None]:
    """Why the runs of the stage `joint` stay, by the name of their retraining."""
    found = {run.name: run.kept for run in find_runs(config, rule, NOW)}
    for name, kept in found.items():
        if name.endswith("-decoder"):
            assert found[name.replace("-decoder", "-joint")] == kept
        if name.endswith("-joint-init"):
            assert found[name.removesuffix("-init")] == kept
    return {
        name.removesuffix("-joint"): kept for name, kept in found.items() if name.endswith("-joint")
    }


def champions(tmp_path: Path, *runs: str) -> None:
    """Makes a version of each run; the last one is champion, and the one before `previous`."""
    for number, run in enumerate(runs):
        folder = tmp_path / run
        make_bundle(folder, psnr=30.0 + number)
        register.run(load_config([f"recipe={SMALL}", f"bundle={folder}", f"run.name={run}"]))


def test_only_what_is_old_and_needed_by_nobody_may_go(settings: list[str], tmp_path: Path) -> None:
    config = load_config(settings)
    champions(tmp_path, "first", "second")
    keep(config, "first", 90, version="1")
    keep(config, "second", 80, version="2")
    keep(config, "refused", 70, Verdict.REFUSED, "3")
    keep(config, "failed", 60, Verdict.FAILED)
    keep(config, "refused-again", 20, Verdict.REFUSED, "4")
    keep(config, "runs", 0, Verdict.RUNNING)
    keep(config, "other", 400, model="another")
    # Trainings by hand whose names begin like those of retrainings, and what nobody can read.
    train(config, "by-hand")
    train(config, "failed-lr3")
    train(config, "failed", folder="copy-of-failed")
    write(run_checkpoints(config, "refused-odd-joint"), "a", 10)
    assert reasons(config) == {
        "first": "version 1 is previous",
        "second": "version 2 is champion",
        "refused": None,
        "failed": None,
        "refused-again": "not old enough",
        "runs": "its retraining runs",
        "other": "one of the newest 1",  # of its own model
        "by-hand": "no retraining made it",
        "failed-lr3": "no retraining made it",
        "copy-of-failed": "no retraining made it",
        "refused-odd": "no retraining made it",
    }
    assert reasons(config, replace(MONTH, keep=3))["failed"] == "one of the newest 3"
    # Nobody has written this one for long: its job was killed.
    keep(config, "silent", 50, Verdict.RUNNING)
    assert reasons(config)["silent"] is None
    found = {run.name: run for run in find_runs(config, MONTH, NOW)}
    assert found["first-joint"].bytes > 12_000
    assert found["by-hand-joint"].retraining is None


def test_nothing_of_them_is_left_and_nothing_else_goes(settings: list[str], tmp_path: Path) -> None:
    config = load_config(settings)
    champions(tmp_path, "c")
    for run, days in (("a", 90), ("a-b", 80)):
        keep(config, run, days, Verdict.FAILED)
    keep(config, "c", 70, version="1")
    runs = [run for run in find_runs(config, MONTH, NOW) if run.kept is None]
    assert [run.name for run in runs] == [
        "a-b-decoder", "a-b-joint", "a-b-joint-init", "a-decoder", "a-joint", "a-joint-init",
    ]  # fmt: skip
    held = run_checkpoints(config, "a-b-decoder")
    with (
        lease(held.store, of_run("a-b-decoder")),
        pytest.raises(UserError, match="is being trained by another job"),
    ):
        remove(config, runs[:1])
    assert len(held.complete()) == 1
    remove(config, runs)
    left = {name.partition("/")[0] for name in open_store(config.run.storage).names()}
    assert left == {"c-joint", "c-joint-init", "c-decoder"}
    assert len(run_checkpoints(config, "c-joint").complete()) == 1
    assert len(Retrainings(store_of(config, MODEL)).all()) == 3  # the history stays


def test_the_command_shows_first_and_removes_when_it_is_told(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(settings)
    keep(config, "old", 3000, Verdict.FAILED)
    keep(config, "new", 2999, Verdict.FAILED)

    def prune(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            srmill(["prune", *settings, "--keep=1", *more])
        captured = capsys.readouterr()
        return f"{ended.value.code}\n{captured.out}{captured.err}"

    capsys.readouterr()
    shown = prune()
    assert shown.startswith("0\nrun")
    assert "old-joint" in shown
    assert "3 of 6 runs may go: 0.1 MiB. --delete removes them." in shown
    assert len(run_checkpoints(config, "old-joint").complete()) == 1
    assert "Removed 3 of 6 runs" in prune("--delete")
    assert "Nothing may go." in prune("--delete")
    assert not run_checkpoints(config, "old-joint").present()
    assert "error: --older-than is '30': write a number of days" in prune("--older-than=30")
    assert "error: --keep must be 0 to" in prune("--keep=-1")


def test_another_registry_is_none_in_which_nothing_is_champion(tmp_path: Path) -> None:
    config = load_config([f"recipe={SMALL}", f"run.storage={tmp_path}/runs",
                          f"retrain.records={tmp_path}/records"])  # fmt: skip
    keep(config, "a", 90, version="1")
    keep(config, "b", 80, Verdict.FAILED)
    with pytest.raises(UserError, match="there is no model registry"):
        find_runs(config, MONTH, NOW)
    tracking.connect(config.mlflow)  # makes an empty one
    with pytest.raises(UserError, match="is not the registry of the retrainings of small"):
        find_runs(config, MONTH, NOW)
    champions(tmp_path, "demo")  # a version 1 of the same model, of another retraining
    with pytest.raises(UserError, match="is not the registry of the retrainings of small"):
        find_runs(config, MONTH, NOW)


def test_every_retraining_of_a_name_counts(tmp_path: Path) -> None:
    """A later one of the same `run.name`, or one of another model, does not hide the champion."""
    config = load_config([f"recipe={SMALL}", f"run.storage={tmp_path}/runs",
                          f"retrain.records={tmp_path}/records"])  # fmt: skip
    champions(tmp_path, "same")
    keep(config, "same", 90, version="1")
    for model, verdict in ((MODEL, Verdict.NOTHING), ("another", Verdict.FAILED)):
        ended = utc(NOW - 50 * DAY)
        record = replace(RECORD, given=Given(model, "c", None, None), run="same", verdict=verdict)
        record = replace(record, registered=None, started=ended, updated=ended, ended=ended)
        Retrainings(store_of(config, model)).save(record)
    for number in range(3):
        keep(config, f"nothing-{number}", 45, Verdict.NOTHING)
    keep(config, "late", 40, Verdict.FAILED)
    assert reasons(config, replace(MONTH, keep=0))["same"] == "version 1 is champion"
    found = reasons(config)
    assert found["same"] == "one of the newest 1"  # of the other model
    # What trained nothing new does not push out what did.
    assert (found["late"], found["nothing-0"]) == ("one of the newest 1", None)
