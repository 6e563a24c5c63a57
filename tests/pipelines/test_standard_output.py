"""Where a program's words go, and what becomes of them there."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.standard_output import standard_output
from tests.conftest import ROOT

#: Prints a word that ASCII does not have, often enough to fill every buffer on the way.
PROGRAM = """
from pipelines.standard_output import standard_output

with standard_output():
    for _ in range(int("COUNT")):
        print("größer")
"""


def shell(command: str, count: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of bash in which `program` stands for the program above."""
    define = f'set -o pipefail; program() {{ "{sys.executable}" -c "$CODE"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", define],
        cwd=ROOT,
        env={"CODE": PROGRAM.replace("COUNT", str(count)), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("count", [1, 100_000])
def test_an_output_that_nobody_reads_ends_the_program_without_a_word(count: int) -> None:
    found = shell("program | sleep 0; exit ${PIPESTATUS[0]}", count)
    # A few words may fit into the pipe before its reader ends.
    assert (found.returncode, found.stderr) in [(141, ""), (0, "")][: 1 if count > 1 else 2]


@pytest.mark.parametrize("count", [1, 100_000])
def test_an_output_that_cannot_be_written_is_one_sentence(count: int) -> None:
    found = shell("program > /dev/full", count)
    assert found.returncode == 2
    assert found.stderr == (
        "error: the output cannot be written (No space left on device): send it to another place.\n"
    )


@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- 2>&-", "<&- >&-"])
def test_closed_streams_are_nobodys_files(closed: str) -> None:
    found = shell(f"program {closed}")
    assert (found.returncode, found.stderr) == (0, "")


def test_an_output_without_umlauts_gets_escapes() -> None:
    assert shell("program", PYTHONIOENCODING="ascii").stdout == "gr\\xf6\\xdfer\n"
    assert shell("program", PYTHONIOENCODING="utf-8").stdout == "größer\n"


def test_errors_of_the_work_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), standard_output():
        (tmp_path / "nosuch").read_text()
    with pytest.raises(BrokenPipeError), standard_output():
        raise BrokenPipeError
