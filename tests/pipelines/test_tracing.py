"""Traces arrive at a real collector, and cost nothing where there is none."""

import os
import subprocess
import sys
import time

import pytest

from pipelines import tracing
from pipelines.errors import UserError
from pipelines.tracing import PARENT, environment, span
from tests.conftest import ROOT
from tests.support.receivers import TraceCollector


def test_spans_tell_what_happened_and_why_it_failed(
    collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-mlflow-experiment-id=7")
    with span("retraining", model="small", run=None) as note:
        with span("stage joint"):
            pass
        with pytest.raises(UserError), span("register"):
            raise UserError("MLflow at http://me:secret@host refuses.")
        note.set(version="3", promoted=True)
    # The end of the outermost span has sent them all.
    assert collector.tree() == {"retraining": {"stage joint": {}, "register": {}}}
    assert collector.attributes("retraining") == {
        "srmill.model": "small", "srmill.version": "3", "srmill.promoted": True,
    }  # fmt: skip
    failed = collector.find("register")
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert failed.status.message.startswith("MLflow at http://***@host refuses.")
    assert "secret" not in str(collector.spans)
    assert not failed.events
    assert collector.find("stage joint").status.code == 0
    headers = {name.lower(): value for name, value in collector.spans[0][0].items()}
    assert headers["x-mlflow-experiment-id"] == "7"


def test_another_process_goes_on_with_the_trace(collector: TraceCollector) -> None:
    code = "from pipelines.tracing import span\nwith span('retraining'):\n  pass\n"
    with span("new photos"):
        handed = environment()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | handed, check=True)
    assert handed.keys() == {PARENT}
    assert collector.tree() == {"new photos": {"retraining": {}}}
    assert environment() == {}  # nothing is open any more


def test_without_a_collector_nothing_is_imported() -> None:
    code = (
        "import sys\nfrom pipelines.tracing import environment, span\n"
        "with span('a') as note:\n  note.set(b=1)\n"
        "assert environment() == {}\nassert 'opentelemetry' not in sys.modules"
    )
    named = dict.fromkeys(tracing._ENDPOINTS, "")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | named, check=True)


def test_a_collector_that_is_away_ends_nothing(
    collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.close()
    began = time.monotonic()
    with span("retraining"):
        pass
    assert time.monotonic() - began < 15


def test_a_missing_package_is_named(
    collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'srmill\[tracing\]'"), span("retraining"):
        pass
