"""Alarms and dashboard: expressions that parse, metrics that exist, alarms that ring and have a
paragraph."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from infra.local.servers.metrics import PORTS
from pipelines.monitoring import champions, exporter, retrainings
from pipelines.training.ray_counters import COUNTERS
from pipelines.training.ray_recorder import GAUGES
from tests.conftest import ROOT

FOLDER = ROOT / "infra" / "monitoring"
CASES = "alerts_test.yaml", "alerts_of_days_test.yaml"
PAGE = (ROOT / "docs" / "operations.md").read_text()
OWN = exporter.METRICS | champions.METRICS | retrainings.METRICS
#: All names that Prometheus reads. Ray puts its name before those of its processes.
METRICS = {*OWN, *(f"ray_{name}" for name in GAUGES | COUNTERS), "up"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def dashboard() -> dict[str, Any]:
    found = json.loads((FOLDER / "dashboard.json").read_text())
    assert isinstance(found, dict)
    return found


def queries() -> list[str]:
    """The expressions of the dashboard, with any value in the place of a variable."""
    board = dashboard()
    found = [t["expr"] for panel in board["panels"] for t in panel.get("targets", ())]
    found += [each["expr"] for each in board["annotations"]["list"]]
    return [re.sub(r"\$\w+", ".*", expression) for expression in found]


def metrics_in(expression: Any) -> Iterator[str]:
    """The names of the metrics that a parsed expression reads."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.name
    for part in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
        value = getattr(expression, part, None)
        for each in value if isinstance(value, list) else [value]:
            if each is not None and not isinstance(each, str | float | int):
                yield from metrics_in(each)


def test_every_expression_parses_and_reads_metrics_that_exist() -> None:
    expressions = [rule["expr"] for rule in rules()] + queries()
    assert len(expressions) > 30
    read = set()
    for text in expressions:
        found = set(metrics_in(promql_parser.parse(text)))
        assert found, text
        assert found <= METRICS, text
        read |= found
    asked = {q["query"] for q in dashboard()["templating"]["list"] if q["type"] == "query"}
    for query in asked:
        match = re.fullmatch(r"label_values\((\w+), \w+\)", query)
        assert match, query
        assert match[1] in METRICS
        read.add(match[1])
    # Whatever is measured, somebody looks at.
    about_time = {"srmill_retraining_last_start_timestamp_seconds",
                  "srmill_source_read_timestamp_seconds"}  # fmt: skip
    assert METRICS - read == about_time


def test_the_page_lists_every_metric() -> None:
    table = dict(re.findall(r"^\| `((?:ray_)?srmill_\w+)` \| (.+) \|$", PAGE, re.MULTILINE))
    ray = {f"ray_{name}": text for name, text in (GAUGES | COUNTERS).items()}
    assert table == OWN | ray


def test_every_alarm_has_a_paragraph_a_severity_and_a_test() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    told = re.findall(r"^\*\*(\w+)\*\*\s", PAGE, re.MULTILINE)
    assert [name for name in told if name in names] == names
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary"}
    groups = [
        test for file in CASES for test in yaml.safe_load((FOLDER / file).read_text())["tests"]
    ]
    checked = [case for group in groups for case in group["alert_rule_test"]]
    for name in names:
        rings = [bool(case.get("exp_alerts")) for case in checked if case["alertname"] == name]
        assert sorted(rings) == [False, True], name


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (apt install prometheus)"
)
def test_the_alarms_ring_when_they_should() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", *CASES]):
        done = subprocess.run(
            ["promtool", *command], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_looks_where_the_full_platform_serves() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    [own] = [job for job in config["scrape_configs"] if job["job_name"] == "srmill"]
    [port] = PORTS.values()
    assert own["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]


def read_back(board: dict[str, Any]) -> Any:
    """Returns the fields of a dashboard that Grafana's own model keeps."""
    return json.loads(JSONEncoder().encode(Dashboard.from_json(board)))


def lost(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    """The places of `given` that `kept` lacks, or holds otherwise."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept.get(key), f"{place}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif given != kept:
        yield place


def test_grafana_takes_every_field_of_the_dashboard() -> None:
    board = dashboard()
    assert list(lost(board, read_back(board))) == []
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    misspelt = json.loads(json.dumps(board).replace('"targets"', '"target"', 1))
    assert list(lost(misspelt, read_back(misspelt))) == [".panels[1].target"]


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
