"""Documents: they come back as they were, and wrong ones are refused in one sentence."""

import json
import re
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from pipelines.errors import UserError
from pipelines.storage.typed import (
    MAX_DEPTH,
    Document,
    check_depth,
    parse_json,
    read_typed,
    to_dict,
    to_json,
)


@dataclass(frozen=True)
class Part:
    value: float | None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Whole(Document):
    VERSION: ClassVar[int] = 3
    REMEDY: ClassVar[str] = "make it again"

    name: str
    count: int
    parts: dict[str, Part] = field(default_factory=dict)


WHOLE = Whole("a", 2, {"z": Part(0.1, (1, 2)), "b": Part(None)})


def read(**changes: object) -> Whole:
    return read_typed(Whole, json.dumps(to_dict(WHOLE) | changes).encode(), "x.json")


def test_a_document_comes_back_as_it_was() -> None:
    assert read_typed(Whole, to_json(WHOLE), "x.json") == WHOLE
    unbounded = Whole("a", 2, {"z": Part(float("inf"))})
    assert read_typed(Whole, to_json(unbounded), "x.json") == unbounded
    assert read(parts={"z": {"value": 1}}).parts == {"z": Part(1.0)}


def test_people_can_read_it_and_every_key_keeps_its_place() -> None:
    text = to_json(WHOLE).decode()
    assert text.splitlines()[1] == '  "version": 3,'
    assert text.endswith("}\n")
    assert list(json.loads(text)["parts"]) == ["z", "b"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"count": "2"}, "count: input should be a valid integer"),
        ({"count": True}, "count: input should be a valid integer"),
        ({"name": 1}, "name: input should be a valid string"),
        ({"extra": 1}, "extra: unexpected keyword argument"),
        ({"parts": {"z": {}}}, "parts.z.value: field required"),
        ({"parts": {"z": {"value": "1"}}}, "parts.z.value: input should be a valid number"),
        ({"parts": {"z": {"value": 1, "shape": [1.5]}}}, "parts.z.shape.0: input should be"),
        ({"parts": []}, "parts: input should be"),
    ],
)
def test_the_first_wrong_place_is_named(changes: dict[str, object], why: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"x.json is damaged ({why}")) as refused:
        read(**changes)
    sentence = str(refused.value)
    assert sentence.endswith("): fetch it again, or make it again.")
    assert "\n" not in sentence


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"\xff{}", b'"version"'])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"x\.json is damaged \(no JSON object\): fetch it again"):
        read_typed(Whole, data, "x.json")


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 100_000])
def test_json_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize(
    ("version", "said"), [(2, "2"), (4, "4"), ("3", "3"), (None, "None"), (True, "True")]
)
def test_another_version_is_refused_before_anything_else(version: object, said: str) -> None:
    with pytest.raises(UserError, match=f"has schema version {said}, this SRMill reads 3: use the"):
        read(version=version, count="wrong")


def test_a_part_that_stands_in_two_places_is_refused() -> None:
    """Thirty lines of YAML would be a thousand million values."""
    value: list[object] = ["x"]
    for _ in range(30):
        value = [value, value]
    with pytest.raises(ValueError, match="stands in two places"):
        check_depth(value)
    assert check_depth([["x"], ["x"], {}, {}]) == [["x"], ["x"], {}, {}]


def test_a_document_without_a_version_is_refused() -> None:
    with pytest.raises(UserError, match="has schema version none, this SRMill reads 3"):
        read_typed(Whole, b'{"name": "a", "count": 2}', "x.json")
