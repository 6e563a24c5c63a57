"""Folders in a directory and in a bucket: whole or absent, and never a mixture of two."""

from functools import partial
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.files import MissingFileError
from pipelines.storage.folders import fetch_folder, new_folder, unchanged
from pipelines.storage.ownership import PENDING, check_replaceable
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.s3 import S3Store
from pipelines.storage.store import Store, open_store

MARKER = "results.json"


@pytest.fixture(params=["directory", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        return open_store(tmp_path / "results")
    return open_store(request.getfixturevalue("s3_url"))


def write(store: Store, *names: str, content: str = "one") -> None:
    with new_folder(store, MARKER, lambda: None) as folder:
        for name in (*names, MARKER):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"{name} {content}")


def test_a_folder_is_read_as_it_was_written(store: Store, tmp_path: Path) -> None:
    write(store, "report.html", "pictures/a.png")
    fetch_folder(store, MARKER, tmp_path / "copy")
    found = {p.relative_to(tmp_path / "copy"): p.read_text() for p in tmp_path.glob("copy/**/*.*")}
    assert found == {
        Path(name): f"{name} one" for name in ("report.html", "pictures/a.png", MARKER)
    }


def test_nothing_of_the_replaced_folder_stays(store: Store) -> None:
    write(store, "report.html", "pictures/a.png")
    write(store, "report.html", content="two")
    assert store.names() == ["report.html", MARKER]
    assert store.read("report.html") == b"report.html two"


def test_a_block_that_fails_leaves_the_folder_as_it_was(store: Store) -> None:
    write(store, "report.html")
    with pytest.raises(TypeError):
        write(store, "report.html", 0)  # type: ignore[arg-type]
    assert store.read("report.html") == b"report.html one"
    assert store.names() == ["report.html", MARKER]


class Killed(S3Store):
    """A store whose process dies at its second file."""

    written = 0

    def write_file(self, name: str, path: Path) -> None:
        self.written += 1
        if self.written == 2:
            raise KeyboardInterrupt
        super().write_file(name, path)


def test_a_killed_upload_leaves_no_folder_and_the_next_one_a_whole_one(
    s3_url: str, tmp_path: Path
) -> None:
    store = open_store(s3_url)
    write(store, "a", "b", "c")
    with pytest.raises(KeyboardInterrupt):
        write(Killed(s3_url, RetryPolicy()), "a", "b", content="two")
    assert store.read("a") == b"a two"
    assert store.size(MARKER) is None
    with pytest.raises(MissingFileError):
        fetch_folder(store, MARKER, tmp_path)
    write(store, "a", "b", content="three")
    assert store.names() == ["a", "b", MARKER]
    assert store.read("a") == b"a three"


def test_files_of_others_in_a_bucket_are_not_replaced(s3_url: str) -> None:
    store = open_store(s3_url)
    store.write("thesis.pdf", b"years")
    check = partial(check_replaceable, store, MARKER, lambda document: None)
    refused = pytest.raises(UserError, match=r"files that SRMill did not write \(thesis\.pdf\)")
    with refused, new_folder(store, MARKER, check) as folder:
        (folder / MARKER).write_text("{}")
    assert store.names() == ["thesis.pdf"]


def test_a_folder_that_is_replaced_while_it_is_read_is_refused(store: Store) -> None:
    write(store, "report.html")
    with pytest.raises(UserError, match="was replaced while it was read"), unchanged(store, MARKER):
        write(store, "report.html", content="two")
    with unchanged(store, MARKER) as marker:
        assert marker == b"results.json two"


def test_no_reader_gets_the_mark_of_an_upload(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url)
    write(store, "a")
    store.write(PENDING, b"")  # as a process that is killed at the very end leaves it
    fetch_folder(store, MARKER, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", MARKER]
