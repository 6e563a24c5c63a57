"""Which runs may go, and what is left of them; registry and S3 server are real."""

from dataclasses import replace
from pathlib import Path

import pytest

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
    for stage in ("joint", "decoder"):
        write(run_checkpoints(config, f"{run}-{stage}"), "a", 10, 20)


def reasons(config: Config, rule: Rule = MONTH) -> dict[str, str | None]:
    """Why the runs of the stage `joint` stay, by the name of their retraining."""
    found = {run.name: run.kept for run in find_runs(config, rule, NOW)}
    for name, kept in found.items():
        if name.endswith("-decoder"):
            assert found[name.replace("-decoder", "-joint")] == kept
    return {name.removesuffix("-joint"): kept for name, kept in found.items() if "joint" in name}


def champions(tmp_path: Path) -> None:
    """Makes version 2 champion, and version 1 the previous one."""
    for psnr in (30.0, 31.0):
        make_bundle(tmp_path / str(psnr), psnr=psnr)
        register.run(load_config([f"recipe={SMALL}", f"bundle={tmp_path / str(psnr)}"]))


def test_only_what_is_old_and_needed_by_nobody_may_go(settings: list[str], tmp_path: Path) -> None:
    config = load_config(settings)
    champions(tmp_path)
    keep(config, "first", 90, version="1")
    keep(config, "second", 80, version="2")
    keep(config, "refused", 70, Verdict.REFUSED, "3")
    keep(config, "failed", 60, Verdict.FAILED)
    keep(config, "refused-again", 20, Verdict.REFUSED, "4")
    keep(config, "runs", 0, Verdict.RUNNING)
    keep(config, "other", 400, model="another")
    write(run_checkpoints(config, "by-hand-joint"), "a", 10)
    assert reasons(config) == {
        "first": "version 1 is previous",
        "second": "version 2 is champion",
        "refused": None,
        "failed": None,
        "refused-again": "not old enough",
        "runs": "its retraining runs",
        "other": "one of the newest 1",  # of its own model
        "by-hand": "no retraining made it",
    }
    assert reasons(config, replace(MONTH, keep=3))["failed"] == "one of the newest 3"
    # Nobody has written this one for long: its job was killed.
    keep(config, "silent", 50, Verdict.RUNNING)
    assert reasons(config)["silent"] is None
    found = {run.name: run for run in find_runs(config, MONTH, NOW)}
    assert found["first-joint"].bytes > 2 * 6000
    assert found["by-hand-joint"].retraining is None


def test_nothing_of_them_is_left_and_nothing_else_goes(settings: list[str], tmp_path: Path) -> None:
    config = load_config(settings)
    champions(tmp_path)
    for run, days in (("a", 90), ("a-b", 80), ("c", 70)):
        keep(config, run, days)
    runs = [run for run in find_runs(config, MONTH, NOW) if run.kept is None]
    assert [run.name for run in runs] == ["a-b-decoder", "a-b-joint", "a-decoder", "a-joint"]
    held = run_checkpoints(config, "a-b-decoder")
    with (
        lease(held.store, of_run("a-b-decoder")),
        pytest.raises(UserError, match="is being trained by another job"),
    ):
        remove(config, runs[:1])
    assert len(held.complete()) == 2
    remove(config, runs)
    left = {name.partition("/")[0] for name in open_store(config.run.storage).names()}
    assert left == {"c-joint", "c-decoder"}
    assert len(run_checkpoints(config, "c-joint").complete()) == 2
    assert len(Retrainings(store_of(config, MODEL)).all()) == 3  # the history stays


def test_the_command_shows_first_and_removes_when_it_is_told(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(settings)
    champions(tmp_path)
    keep(config, "old", 3000)
    keep(config, "new", 2999)

    def prune(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            srmill(["prune", *settings, "--keep=1", *more])
        captured = capsys.readouterr()
        return f"{ended.value.code}\n{captured.out}{captured.err}"

    capsys.readouterr()
    shown = prune()
    assert shown.startswith("0\nrun")
    assert "old-joint" in shown
    assert "2 of 4 runs may go: 0.0 MiB. --delete removes them." in shown
    assert len(run_checkpoints(config, "old-joint").complete()) == 2
    assert "Removed 2 of 4 runs" in prune("--delete")
    assert "Nothing may go." in prune("--delete")
    assert not run_checkpoints(config, "old-joint").present()
    assert "error: --older-than is '30': write a number of days" in prune("--older-than=30")
    assert "error: --keep must be 0 to" in prune("--keep=-1")


def test_without_a_registry_nothing_goes(tmp_path: Path) -> None:
    config = load_config([f"recipe={SMALL}", f"run.storage={tmp_path}/runs",
                          f"retrain.records={tmp_path}/records"])  # fmt: skip
    keep(config, "a", 90)
    with pytest.raises(UserError, match="there is no model registry"):
        find_runs(config, MONTH, NOW)
    tracking.connect(config.mlflow)
    assert reasons(config) == {"a": "one of the newest 1"}
