"""Every line of docs/threat_model.md names tests that exist."""

import re

from tests.conftest import ROOT


def lines() -> list[str]:
    text = (ROOT / "docs" / "threat_model.md").read_text()
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


def test_each_line_has_a_test_that_exists() -> None:
    pattern = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)
    files = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in files for name in pattern.findall(text)}
    assert len(lines()) > 10
    for line in lines():
        named = re.findall(r"`(test_\w+)`", line)
        assert named, line
        assert set(named) <= there, set(named) - there
