"""One trace from new photos to the alias; registry, gate and collector are real."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.errors import NotPromotedError
from pipelines.retrain import run
from pipelines.tracing import PARENT, environment
from pipelines.triggers import Limits, Status, Watch
from tests.conftest import write_dataset
from tests.support.receivers import TraceCollector
from tests.support.retraining import TAUGHT, only_register, with_bundle


class Starter:
    """Takes jobs, and keeps the variables that each of them gets."""

    where = "this machine"

    def __init__(self) -> None:
        self.started: list[tuple[Sequence[str], dict[str, str]]] = []

    def status(self, job: str) -> Status:
        return Status.ABSENT

    def start(self, job: str, settings: Sequence[str]) -> None:
        self.started.append((settings, environment()))

    def wait(self, job: str) -> None: ...

    def stop(self) -> None: ...


def test_a_trace_leads_from_new_photos_to_the_alias(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: TraceCollector
) -> None:
    only_register(monkeypatch, lambda: write_dataset(photos, tmp_path / "shards"))
    starter = Starter()
    common = [f"recipe={TAUGHT}", f"data={tmp_path / 'shards'}"]
    Watch(str(photos), common, starter).poll(Limits(1, None), 0.0)
    [(settings, variables)] = starter.started
    monkeypatch.setenv(PARENT, variables[PARENT])
    run(with_bundle(settings, psnr=30.0))
    gate = {"gate": {}, "move @champion": {}}
    steps = ["shard", "stage wide", "stage taught", "evaluate", "export"]
    assert collector.tree() == {
        "new photos": {"retraining": {step: {} for step in steps} | {"register": gate}}
    }
    assert collector.attributes("new photos")["srmill.source"] == str(photos)
    assert collector.attributes("retraining")["srmill.version"] == "1"
    assert collector.attributes("gate")["srmill.promoted"] is True
    assert collector.attributes("move @champion")["srmill.moved"] is True


def test_a_candidate_that_is_refused_moves_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: TraceCollector
) -> None:
    only_register(monkeypatch, lambda: write_dataset(photos, tmp_path / "shards"))
    common = [f"recipe={TAUGHT}", f"source={photos}", f"data={tmp_path / 'shards'}"]
    run(with_bundle([*common, "run.name=good"], psnr=30.0))
    collector.spans.clear()
    with pytest.raises(NotPromotedError):
        run(with_bundle([*common, "run.name=bad"], psnr=28.0))
    assert collector.tree()["retraining"]["register"] == {"gate": {}}
    assert collector.attributes("gate")["srmill.promoted"] is False
    assert collector.attributes("gate")["srmill.against"] == "1"
