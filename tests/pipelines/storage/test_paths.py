from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.files import new_directory, read_json, write_bytes, write_json
from pipelines.storage.paths import absolute_location, home, resolve


def test_relative_paths_are_resolved_against_srmill_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path))
    assert resolve("work/x") == tmp_path / "work/x"
    assert resolve("/data") == Path("/data")
    monkeypatch.delenv("SRMILL_HOME")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path


def test_a_submitted_job_without_a_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRMILL_HOME")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="SRMILL_HOME is not set"):
        resolve("work")


def test_object_storage_is_no_path() -> None:
    with pytest.raises(UserError, match="a local folder is needed"):
        resolve("s3://bucket/prefix")
    assert absolute_location("s3://bucket/prefix") == "s3://bucket/prefix"


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with new_directory(target) as new:
        (new / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"

    def fail() -> None:
        with new_directory(target) as new:
            (new / "a").write_text("2")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert (target / "a").read_text() == "1"
    with new_directory(target) as new:
        (new / "b").write_text("3")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_files_are_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "x.json", {"b": 1, "a": [2]})
    assert read_json(tmp_path / "deep" / "x.json") == {"a": [2], "b": 1}
    write_bytes(tmp_path / "y", b"1")
    write_bytes(tmp_path / "y", b"2")
    assert (tmp_path / "y").read_bytes() == b"2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "y"]
