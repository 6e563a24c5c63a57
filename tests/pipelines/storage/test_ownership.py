"""Results replace earlier results, and nothing that another program wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.storage.ownership import Owns, check_replaceable
from pipelines.storage.store import LocalStore


def owned(document: dict[str, Any]) -> Owns | None:
    files = document.get("files")
    return files.__contains__ if isinstance(files, list) else None


def check(folder: Path) -> None:
    check_replaceable(LocalStore(folder), "result.json", owned)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    (folder / "edge").mkdir(parents=True)
    (folder / "edge" / "a").write_text("1")
    (folder / "result.json").write_text(json.dumps({"files": ["edge/a", "gone"]}))
    return folder


def test_what_is_absent_empty_or_ours_may_be_replaced(tmp_path: Path, result: Path) -> None:
    check(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    check(tmp_path / "empty")
    check(result)


@pytest.mark.parametrize("name", ["thesis.tex", "edge/b", ".hidden", ".thesis-abcdefgh"])
def test_a_file_that_the_result_does_not_list_keeps_it(result: Path, name: str) -> None:
    (result / name).write_text("1")
    with pytest.raises(
        UserError, match=r"holds files that SRMill did not write \(.*choose another"
    ):
        check(result)


@pytest.mark.parametrize("text", ["{}", "[]", "{", "[" * 5000, '{"files": 1}', "\ud800"])
def test_a_mark_of_another_program_is_none(result: Path, text: str) -> None:
    (result / "result.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"did not write \(edge/a, result\.json\): choose another"):
        check(result)


def test_links_and_files_in_the_place_of_a_folder_stay(tmp_path: Path, result: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a").write_text("1")
    (result / "folder").symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match=r"did not write \(folder\)"):
        check(result)
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    (tmp_path / "file").write_text("1")
    for name in ("link", "file"):
        with pytest.raises(UserError, match=f"{name} is a file or a link, and not a folder"):
            check(tmp_path / name)
