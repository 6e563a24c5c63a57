"""The commands of the pages: fenced blocks, and commands in running text."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "yaml", "text"}
#: What a fence may need besides a checkout, the sample photos and a few minutes.
NEEDS = {
    "installation": "an installation of its own, or all tests",
    "download": "files of others, which it downloads",
    "hours": "hours of training, or the photos that the shipped weights learned from",
    "registry": "a model that was registered",
    "schedule": "systemd, Kubernetes, or a command that listens until somebody stops it",
    "s3": "a bucket of the reader's",
    "sets": "benchmark sets, or the weights of other people's networks",
}
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_COMMAND = re.compile(r"(jobs/|make |\.venv/|torchrun |srmill \S+ )[^…]*$")


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page.

    info: what stands after the opening backticks, such as `sh needs=hours`.
    """

    page: Path
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def needs(self) -> str | None:
        """Names what the block needs besides a checkout; None if that is nothing."""
        return self.info.partition(" needs=")[2] or None

    @cached_property
    def commands(self) -> list[str]:
        """The commands, one a line; continued lines are joined."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def fences(page: Path) -> list[Fence]:
    """The blocks of a page, in order."""
    text = page.read_text()
    return [
        Fence(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


def shell_fences(page: Path) -> list[Fence]:
    return [fence for fence in fences(page) if fence.language == "sh"]


def spans(page: Path) -> list[str]:
    """The code in running text, each piece on one line."""
    prose = _FENCE.sub("", page.read_text())
    return [" ".join(found.split()) for found in _SPAN.findall(prose)]


def commands_in_text(page: Path) -> list[str]:
    """The whole commands in running text: those that leave nothing out."""
    return [span for span in spans(page) if " " in span and _COMMAND.match(span)]


def unquoted(command: str) -> str:
    """Returns what a shell reads outside of quotes."""
    return _QUOTED.sub("", command)


def words(command: str) -> Iterator[str]:
    """The words of a command, without the settings of the environment before it."""
    found = shlex.split(command)
    while found and re.match(r"[A-Z_]+=", found[0]):
        found.pop(0)
    yield from found


def run_shell(commands: str, folder: Path, environment: dict[str, str], timeout: int) -> str:
    """Runs commands in bash, asserts that none of them fails, and returns what they print.

    Args:
        timeout: the longest time that all of them may take, seconds.
    """
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
