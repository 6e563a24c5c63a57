"""The exporter serves over real HTTP, also while a source is away."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from pipelines.config.load import load_config
from pipelines.errors import UserError
from pipelines.monitoring import champions, exporter, retrainings
from pipelines.monitoring.exporter import METRICS, Exporter, Families
from pipelines.storage.clock import Clock


class Source:
    """A source that counts how often it was asked, and fails while it is away."""

    def __init__(self) -> None:
        self.asked, self.away = 0, False

    def __call__(self) -> Families:
        self.asked += 1
        if self.away:
            raise UserError("MLflow does not answer: start it.")
        family = GaugeMetricFamily("asked", "how often it was asked", labels=["model"])
        family.add_metric(["a"], self.asked)
        return [family]


class Ended(Exception):  # noqa: N818
    """The error that ends the main thread."""


class Pauses(Clock):
    """Ends at the last pause, and keeps all of them."""

    def __init__(self, *between: object) -> None:
        self.seconds: list[float] = []
        self.steps = iter(between)

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        step = next(self.steps, None)
        if step is None:
            raise Ended
        step()  # type: ignore[operator]


def values(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def ended() -> Iterator[None]:
    with pytest.raises(Ended):
        yield


def test_a_source_that_fails_keeps_its_values_and_is_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = Source(), Source()
    served = Exporter({"good": good, "bad": bad})
    assert values(served.text())["srmill_source_up", "good"] == 0  # nobody has asked it yet
    served.refresh()
    first = values(served.text())
    assert first["srmill_source_up", "bad"] == 1
    bad.away = True
    served.refresh()
    served.refresh()
    second = values(served.text())
    assert second["srmill_source_up", "bad"] == 0
    assert second["srmill_source_up", "good"] == 1
    read = "srmill_source_read_timestamp_seconds"
    assert second[read, "bad"] == first[read, "bad"]
    assert second[read, "good"] > first[read, "good"]
    bad.away = False
    served.refresh()
    assert values(served.text())["srmill_source_up", "bad"] == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in told] == [
        "bad: MLflow does not answer: start it.", "bad: answers again",
    ]  # fmt: skip


def test_it_serves_while_it_asks_again(capsys: pytest.CaptureFixture[str]) -> None:
    source, ports, seen = Source(), [], []

    def look() -> None:
        url = f"http://127.0.0.1:{ports[0]}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            seen.append(values(answer.read().decode())["asked", "a"])

    def go_away() -> None:
        source.away = True

    pauses = Pauses(look, look, go_away)
    with ended():
        Exporter({"source": source}).serve("127.0.0.1", 0, 30.0, ports.append, pauses)
    assert seen == [1, 2]
    assert pauses.seconds == [30, 30, 30, 10]  # sooner where something is away
    assert not [t for t in threading.enumerate() if "HTTP" in t.name]
    # The port is free again, and taken while another listens there.
    with ended():
        Exporter({}).serve("127.0.0.1", ports[0], 1.0, refused, Pauses())


def refused(port: int) -> None:
    with pytest.raises(UserError, match=r"cannot listen at 127\.0\.0\.1 port"):
        Exporter({}).serve("127.0.0.1", port, 1.0, lambda _: None, Pauses())


def test_a_source_that_is_away_keeps_the_others_waiting_for_seconds(tmp_path: Path) -> None:
    given = load_config([f"retrain.records={tmp_path}", "mlflow.uri=http://127.0.0.1:9"])
    assert given.mlflow.retry_seconds > 60
    served, began = Exporter(exporter.sources(given)), time.monotonic()
    served.refresh()
    assert time.monotonic() - began < 45
    found = values(served.text())
    assert found["srmill_source_up", "registry"] == 0
    assert found["srmill_source_up", "retrainings"] == 1
    assert given.mlflow.retry_seconds > 60


def test_no_name_stands_for_two_things() -> None:
    names = [*METRICS, *champions.METRICS, *retrainings.METRICS]
    assert len(set(names)) == len(names)
    assert exporter.METRICS is METRICS
