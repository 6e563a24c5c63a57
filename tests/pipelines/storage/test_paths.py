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


def test_a_submitted_job_without_a_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRMILL_HOME")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="SRMILL_HOME is not set"):
        resolve("work")


def test_object_storage_is_no_path() -> None:
    with pytest.raises(UserError, match="a local folder is needed"):
        resolve("s3://bucket/prefix")
    assert absolute_location("s3://bucket/prefix") == "s3://bucket/prefix"
