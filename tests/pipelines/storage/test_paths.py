from pathlib import Path

import pytest

from pipelines.errors import UserError
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


def test_a_home_that_is_no_folder_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for value, message in [
        (tmp_path / "loop", "SRMILL_HOME is a link to itself"),
        ("~nobody_of_this_name/x", "'~nobody_of_this_name/x' is no path"),
    ]:
        monkeypatch.setenv("SRMILL_HOME", str(value))
        with pytest.raises(UserError, match=message):
            resolve("work")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SRMILL_HOME", "~/x")
    assert resolve("work") == tmp_path / "x" / "work"


def test_a_submitted_job_without_a_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRMILL_HOME")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="SRMILL_HOME is not set"):
        resolve("work")


def test_object_storage_is_no_path() -> None:
    with pytest.raises(UserError, match="a local folder is needed"):
        resolve("s3://bucket/prefix")
    assert absolute_location("s3://bucket/prefix") == "s3://bucket/prefix"


def test_a_store_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRMILL_HOME", "s3://bucket/prefix")
    with pytest.raises(UserError, match="SRMILL_HOME is 's3://bucket/prefix', and no path"):
        home()
