"""A model without a promotion for long is told: once for each such time."""

import time
from pathlib import Path

import pytest

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.registry import actions, register
from pipelines.registry.stale import last_promotion, tell_if_stale
from tests.conftest import SMALL
from tests.support.bundles import make_bundle
from tests.support.receivers import WebhookServer

DAY = 86_400.0


@pytest.fixture
def config(tmp_path: Path, webhook: WebhookServer) -> Config:
    """A configuration with a champion."""
    make_bundle(tmp_path / "first")
    config = load_config(
        [f"recipe={SMALL}", f"bundle={tmp_path / 'first'}", "notify.stale_after=2d",
         f"notify.webhook={webhook.url}"]
    )  # fmt: skip
    register.run(config)
    return config


def test_it_is_told_once_for_each_time_that_passes(config: Config, webhook: WebhookServer) -> None:
    now = time.time()
    for days in (0.0, 1.9, 2.1, 2.2, 3.9, 4.1, 4.2):
        tell_if_stale(config, now + days * DAY)
    assert webhook.events == ["stale", "stale"]
    document = webhook.got[0][2]
    assert document["text"].startswith("small has had no promotion for long: the last one was at ")
    assert document["reason"].endswith("more than 2d ago")
    assert document["model_version"] is None


def test_a_promotion_ends_it(config: Config, webhook: WebhookServer, tmp_path: Path) -> None:
    tell_if_stale(config, time.time() + 3 * DAY)
    since = last_promotion(tracking.connect(config.mlflow), "small")
    assert since is not None
    assert since > time.time() - 600
    make_bundle(tmp_path / "better", psnr=31.0)
    config.bundle = str(tmp_path / "better")
    time.sleep(1.1)  # a move's time has whole seconds
    register.run(config)
    tell_if_stale(config, time.time() + 1 * DAY)
    assert webhook.events == ["stale"]
    promoted = last_promotion(tracking.connect(config.mlflow), "small")
    assert promoted is not None
    assert promoted > since
    # A way back is no promotion.
    time.sleep(1.1)
    config.action = "rollback"
    actions.run(config)
    assert last_promotion(tracking.connect(config.mlflow), "small") == promoted
    tell_if_stale(config, time.time() + 3 * DAY)
    assert webhook.events == ["stale", "stale"]


def test_a_version_that_never_became_champion_counts_from_its_day(
    tmp_path: Path, webhook: WebhookServer
) -> None:
    make_bundle(tmp_path / "only")
    config = load_config(
        [f"recipe={SMALL}", f"bundle={tmp_path / 'only'}", "register.promote=never",
         "notify.stale_after=36h", f"notify.webhook={webhook.url}"]
    )  # fmt: skip
    tell_if_stale(config, time.time() + 9 * DAY)  # there is no model yet
    register.run(config)
    tell_if_stale(config, time.time() + 1 * DAY)
    assert webhook.events == []
    tell_if_stale(config, time.time() + 2 * DAY)
    assert webhook.events == ["stale"]


def test_nobody_asks_a_registry_for_nobody(
    config: Config, webhook: WebhookServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config.mlflow.uri = "http://127.0.0.1:9"
    config.notify.stale_after = None
    tell_if_stale(config, time.time() + 9 * DAY)
    assert capsys.readouterr().err == ""
    config.notify.stale_after, config.notify.webhook = "2d", None
    tell_if_stale(config, time.time() + 9 * DAY)
    assert capsys.readouterr().err == ""


def test_a_registry_that_is_away_is_one_line(
    config: Config, webhook: WebhookServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config.mlflow.uri, config.mlflow.retry_seconds = "http://127.0.0.1:9", 0.5
    capsys.readouterr()
    tell_if_stale(config, time.time() + 9 * DAY)
    error = capsys.readouterr().err
    assert error.startswith("note: nobody can tell whether small is stale: ")
    assert error.count("\n") == 1
    assert webhook.got == []
