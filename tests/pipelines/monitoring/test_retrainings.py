"""Records of retrainings, in a folder and in a real S3 server, as metrics."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.monitoring.retrainings import METRICS, retrainings
from pipelines.retrain.history import SILENT_S, Cost, Given, Retrainings, Verdict, store_of
from pipelines.storage.clock import from_utc, utc
from pipelines.storage.typed import to_json
from tests.pipelines.retrain.test_history import RECORD

NOW = from_utc("2026-11-30T00:00:00Z")


@pytest.fixture(params=["local", "s3"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    local = request.param == "local"
    records = tmp_path / "records" if local else f"{request.getfixturevalue('s3_url')}/records"
    return load_config([f"retrain.records={records}"])


def keep(config: Config, model: str, *verdicts: Verdict) -> None:
    """Keeps a retraining for each verdict, an hour apart, the oldest first."""
    for hour, verdict in enumerate(verdicts):
        began = from_utc(RECORD.started) + 3600 * hour
        ended = None if verdict is Verdict.RUNNING else utc(began + 600)
        given = Given(f"photos {hour}", "c", None, None)
        record = replace(RECORD, given=given, verdict=verdict, ended=ended)
        record = replace(record, started=utc(began), updated=utc(began + 600))
        Retrainings(store_of(config, model)).save(record)


def read(config: Config, now: float = NOW) -> dict[tuple[str, ...], float]:
    """The values, by name and values of labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in retrainings(config, now)
        for sample in family.samples
    }


def test_they_say_how_it_went_and_what_it_cost(config: Config) -> None:
    keep(config, "a", Verdict.PROMOTED, Verdict.REFUSED, Verdict.FAILED)
    keep(config, "b", Verdict.REFUSED, Verdict.NOTHING, Verdict.REFUSED)
    found, began = read(config), from_utc(RECORD.started)
    assert {name for name, *_ in found} == METRICS.keys()
    assert found["srmill_retrainings", "a", "promoted"] == 1
    assert found["srmill_retrainings", "a", "interrupted"] == 0
    assert found["srmill_retrainings", "b", "refused"] == 2
    assert found["srmill_retraining_first_start_timestamp_seconds", "a"] == began
    assert found["srmill_retraining_last_start_timestamp_seconds", "a"] == began + 7200
    # One that failed did not do its work; one that was refused, or found nothing new, did.
    assert found["srmill_retraining_last_success_timestamp_seconds", "a"] == began + 4200
    assert found["srmill_retraining_last_success_timestamp_seconds", "b"] == began + 7800
    assert found["srmill_retraining_failed", "a"] == 1
    assert found["srmill_retraining_failed", "b"] == 0
    assert found["srmill_retraining_refused_in_a_row", "a"] == 1
    assert found["srmill_retraining_refused_in_a_row", "b"] == 2
    assert found["srmill_retraining_cost_hours", "a", "gpu"] == pytest.approx(3 * 0.913)
    assert found["srmill_retraining_last_cost_hours", "a", "wall"] == 1.2
    keep(config, "c", Verdict.PROMOTED)
    cheap = replace(RECORD, given=Given("x", "c", None, None), verdict=Verdict.NOTHING)
    cheap = replace(cheap, cost=Cost(), started="2026-12-01T00:00:00Z")
    Retrainings(store_of(config, "c")).save(cheap)
    # One that found nothing new says nothing of what a retraining costs.
    assert read(config)["srmill_retraining_last_cost_hours", "c", "gpu"] == 0.913


def test_one_that_was_killed_counts_as_failed_once_it_is_silent(config: Config) -> None:
    keep(config, "a", Verdict.RUNNING)
    written = from_utc(RECORD.started) + 600
    assert read(config, written + SILENT_S - 1)["srmill_retraining_failed", "a"] == 0
    found = read(config, written + SILENT_S + 1)
    assert found["srmill_retraining_failed", "a"] == 1
    assert found["srmill_retrainings", "a", "interrupted"] == 1
    assert ("srmill_retraining_last_success_timestamp_seconds", "a") not in found


def test_no_records_are_no_error_and_a_damaged_one_is(config: Config) -> None:
    assert read(config) == {}
    # The record of a step lies beside those of the models, and is none.
    keep(config, "a", Verdict.PROMOTED)
    store = store_of(config, "a")
    written = json.loads(to_json(RECORD))
    written["ended"] = "yesterday"
    store.write("retrainings/damaged.json", json.dumps(written).encode())
    with pytest.raises(UserError, match=r"damaged\.json"):
        read(config)
    store.write("retrainings/damaged.json", b"{")
    with pytest.raises(UserError, match=r"damaged\.json"):
        read(config)
