"""The champions of a real registry, as metrics."""

import time
from pathlib import Path

import pytest

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.monitoring.champions import METRICS, champions
from pipelines.registry import register
from tests.conftest import SMALL
from tests.support.bundles import make_bundle


def read() -> dict[tuple[str, str], float]:
    client = tracking.connect(load_config([]).mlflow)
    return {
        (sample.name, sample.labels["model"]): sample.value
        for family in champions(client)
        for sample in family.samples
    }


def test_they_say_which_version_is_champion_since_when(tmp_path: Path) -> None:
    before = time.time()
    for psnr in (31.0, 29.0):
        make_bundle(tmp_path / str(psnr), psnr=psnr)
        register.run(load_config([f"recipe={SMALL}", f"bundle={tmp_path / str(psnr)}"]))
    client = tracking.connect(load_config([]).mlflow)
    client.create_registered_model("empty")
    found = read()
    assert {name for name, _ in found} == METRICS.keys()
    assert {model for _, model in found} == {"small", "empty"}  # and no log of moves
    assert found["srmill_model_versions", "small"] == 2
    assert found["srmill_model_versions", "empty"] == 0
    assert found["srmill_champion_version", "small"] == 1  # the second one is worse
    since = found["srmill_champion_since_timestamp_seconds", "small"]
    assert before - 1 <= since <= time.time()
    assert ("srmill_champion_version", "empty") not in found
    # Somebody sets the alias in MLflow, past every gate.
    client.set_registered_model_alias("small", "champion", "2")
    by_hand = read()
    assert by_hand["srmill_champion_version", "small"] == 2
    created = client.get_model_version("small", "2").creation_timestamp / 1000
    assert by_hand["srmill_champion_since_timestamp_seconds", "small"] == pytest.approx(created)
