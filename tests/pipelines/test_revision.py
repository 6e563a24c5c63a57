import subprocess
from pathlib import Path

import pytest

from pipelines import revision
from pipelines.revision import git_commit


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the module takes for the project's, outside of any repository."""
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("SRMILL_GIT_COMMIT", raising=False)
    return tmp_path


def commit(folder: Path) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def test_a_checkout_tells_its_commit_and_that_it_was_edited(checkout: Path) -> None:
    (checkout / "a.txt").write_text("a")
    expected = commit(checkout)
    assert git_commit() == expected
    (checkout / "a.txt").write_text("b")
    assert git_commit() == f"{expected}+dirty"


def test_a_copy_without_git_knows_what_it_was_told(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_commit() is None
    monkeypatch.setenv("SRMILL_GIT_COMMIT", "abc")
    assert git_commit() == "abc"
