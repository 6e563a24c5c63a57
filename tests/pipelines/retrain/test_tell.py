"""A retraining tells a real webhook what became of it; register and gate are real, too."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.config.load import load_config
from pipelines.errors import (
    BudgetSpentError,
    BusyError,
    NotPromotedError,
    Terminated,
    UserError,
)
from pipelines.notify.channels import WEBHOOK
from pipelines.registry import actions
from pipelines.retrain import plan, run, work
from tests.support.receivers import WebhookServer
from tests.support.retraining import TAUGHT, only_register, with_bundle

Retrain = Callable[..., str]


@pytest.fixture
def arguments(photos: Path, tmp_path: Path) -> list[str]:
    return [f"recipe={TAUGHT}", f"source={photos}", f"data={tmp_path / 'shards'}"]


@pytest.fixture
def retrain(
    arguments: list[str], webhook: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> Retrain:
    """Runs a chain whose bundle is there already, with a score, so that it only registers."""
    monkeypatch.setenv(WEBHOOK, webhook.url)
    only_register(monkeypatch)

    def retrain(name: str, psnr: float = 30.0, *settings: str) -> str:
        return run(with_bundle([*arguments, f"run.name={name}", *settings], psnr))

    return retrain


def test_promoted_and_refused_are_told_once_with_the_figures(
    retrain: Retrain, webhook: WebhookServer
) -> None:
    assert retrain("first") == "1"
    with pytest.raises(NotPromotedError, match="taught version 2: worse by psnr_y_crop4"):
        retrain("worse", 29.5)
    assert retrain("better", 30.5) == "3"
    assert webhook.events == ["promoted", "refused", "promoted"]
    first, worse, better = (document for _, _, document in webhook.got)
    assert first["text"].startswith("taught version 1 is the champion: ")
    assert (worse["run"], worse["model_version"]) == ("worse", "2")
    assert worse["reason"].startswith("worse by psnr_y_crop4")
    assert better["reason"].startswith("better by psnr_y_crop4")
    # The ticks after that find nothing new, also where somebody has moved the champion meanwhile.
    actions.run(load_config([f"recipe={TAUGHT}", "action=rollback"]))
    for name in ("first", "worse", "better"):
        retrain(name)
    assert len(webhook.got) == 3


def test_what_the_gate_decided_is_told_whoever_moves_the_champion_later(
    retrain: Retrain, webhook: WebhookServer
) -> None:
    retrain("first")
    with pytest.raises(NotPromotedError):
        retrain("worse", 29.5)
    by_hand = "action=promote", "model=models:/taught/2"
    actions.run(load_config([f"recipe={TAUGHT}", *by_hand]))
    # It is the champion now, and that is no news of this retraining.
    assert retrain("worse", 29.5) == "2"
    assert webhook.events == ["promoted", "refused"]


def test_a_version_that_the_gate_was_not_asked_about_is_told_as_registered(
    retrain: Retrain, webhook: WebhookServer
) -> None:
    retrain("first")
    assert retrain("later", 30.5, "register.promote=never") == "2"
    assert webhook.events == ["promoted", "registered"]
    assert webhook.got[-1][2]["text"] == (
        "taught version 2 is registered, and the gate was not asked: register.promote=never"
    )


def test_what_could_not_be_told_is_told_by_the_next_tick(
    retrain: Retrain, webhook: WebhookServer, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook.statuses = [404]
    assert retrain("first") == "1"
    said = capsys.readouterr()
    assert "Promoted: taught@champion is version 1" in said.out
    assert f"note: could not tell the webhook at {webhook.host}: promoted" in said.err
    assert retrain("first") == "1"
    assert "Nothing to do" in capsys.readouterr().out
    assert webhook.events == ["promoted", "promoted"]


def test_a_failure_is_told_and_stays_the_jobs_error(
    retrain: Retrain, webhook: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("no bucket 'photos' at http://joe:secret@store: create it")

    monkeypatch.setattr(work, "run_here", fail)
    for statuses in ([], [500] * 9):
        webhook.statuses = statuses
        monkeypatch.setattr("pipelines.notify.send.PAUSES_S", (0.0, 0.0))
        with pytest.raises(UserError, match="no bucket 'photos'"):
            retrain("first")
    document = webhook.got[0][2]
    assert (document["event"], document["model_version"]) == ("failed", None)
    assert document["text"] == (
        "the retraining of taught failed: no bucket 'photos' at http://***@store: create it"
    )
    assert webhook.events == ["failed"] * 4


def test_a_budget_that_is_spent_is_told_since_somebody_has_to_decide(
    retrain: Retrain, webhook: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise BudgetSpentError("retrain.max_hours=2 is spent (2 hours), and it is saved")

    monkeypatch.setattr(work, "run_here", stop)
    with pytest.raises(BudgetSpentError):
        retrain("first")
    [(_, _, document)] = webhook.got
    assert document["event"] == "failed"
    assert document["reason"] == "retrain.max_hours=2 is spent (2 hours), and it is saved"


@pytest.mark.parametrize("stop", [Terminated("saved"), KeyboardInterrupt(), BusyError("a job is")])
def test_who_stops_a_retraining_needs_no_news(
    stop: BaseException,
    retrain: Retrain,
    webhook: WebhookServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(*_: object) -> None:
        raise stop

    monkeypatch.setattr(work, "run_here", end)
    with pytest.raises(type(stop)):
        retrain("first")
    assert webhook.got == []


def test_a_registry_that_is_away_at_the_end_changes_no_result(
    retrain: Retrain,
    webhook: WebhookServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def gone(*_: object) -> None:
        raise UserError("the MLflow server does not answer")

    monkeypatch.setattr("pipelines.retrain.tell.tracking", SimpleNamespace(connect=gone))
    assert retrain("first") == "1"
    assert "could not find out what to tell about version 1" in capsys.readouterr().err
    assert webhook.got == []


def test_a_plan_says_who_is_told(
    arguments: list[str], webhook: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(arguments)
    assert "notify" not in plan(config)
    monkeypatch.setenv(WEBHOOK, f"{webhook.url}/secret")
    last = plan(config).splitlines()[-1]
    assert last == f"7. notify: tell the webhook at {webhook.host} what became of it"
    config.notify.mail = "me@example.org"
    with pytest.raises(UserError, match=r"notify\.smtp"):
        plan(config)
    with pytest.raises(UserError, match=r"notify\.smtp"):
        run(config)
