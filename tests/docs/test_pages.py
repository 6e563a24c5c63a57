"""The pages are wrapped, and their links lead to files that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

WIDTH = 110
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(text: str) -> Iterator[str]:
    """The lines of a page, without fenced code, tables, headings and lines of a single link."""
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        if not re.match(r"[|#]|[-!\s]*\[[^]]*\]\(\S+\)$", line):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_prose_is_wrapped(page: Path) -> None:
    assert [line for line in prose(page.read_text()) if len(line) > WIDTH] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text()) if not t.startswith(("https:", "#"))]
    assert [t for t in targets if not (page.parent / t.partition("#")[0]).exists()] == []
