import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.training.recorder import JSONLinesRecorder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_call_is_a_line_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    recorder = JSONLinesRecorder(path)
    recorder.metrics({"a": 1.5, "b": float("nan")}, 10)
    recorder.picture("validation/one", Image.new("RGB", (4, 4), "red"), 10)
    (tmp_path / "trace.json").write_text("{}")
    recorder.file(tmp_path / "trace.json", "profile")
    recorder.file(path.parent / "profile" / "trace.json", "profile")
    recorder.close()
    first, *rest = lines(path)
    assert first.pop("time") > 1.7e9
    assert first == {"step": 10, "metrics": {"a": 1.5, "b": None}}
    assert [line.get("picture", line.get("file")) for line in rest] == [
        "pictures/validation/one-000010.png", "profile/trace.json", "profile/trace.json",
    ]  # fmt: skip
    with Image.open(path.parent / rest[0]["picture"]) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
    assert (path.parent / "profile" / "trace.json").read_text() == "{}"


def test_a_replay_leaves_one_value_per_step_whatever_a_killed_process_left(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    recorder = JSONLinesRecorder(path)
    for step in (1, 2, 3):
        recorder.metrics({"a": float(step)}, step)
    recorder.picture("p", Image.new("RGB", (4, 4), "red"), 3)
    with path.open("a") as file:
        file.write('{"time": 1, "step": 4, "metr')
    again = JSONLinesRecorder(path)
    for step in (2, 3, 4):
        again.metrics({"a": float(step), "b": 0.0}, step)
    again.picture("p", Image.new("RGB", (4, 4), "blue"), 3)
    values = [(line["step"], line["metrics"]) for line in lines(path) if "metrics" in line]
    assert [(step, v["a"]) for step, v in values if "a" in v] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [step for step, v in values if "b" in v] == [2, 3, 4]
    assert sum("picture" in line for line in lines(path)) == 1


def test_a_place_that_cannot_be_written_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    recorder = JSONLinesRecorder(tmp_path / "file" / "metrics.jsonl")
    recorder.metrics({"a": 1.0}, 1)
    recorder.picture("a", Image.new("RGB", (4, 4)), 1)
    recorder.file(tmp_path / "absent", "a")
    recorder.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot record to" in caplog.text
