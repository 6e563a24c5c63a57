import logging
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.files import MissingFileError
from pipelines.storage.retries import Retries, RetryPolicy
from pipelines.storage.store import LocalStore, Store, open_store
from tests.support.clock import TurnedClock


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Both kinds keep the same promises."""
    if request.param == "local":
        return open_store(tmp_path / "store")
    return open_store(request.getfixturevalue("s3_url"), policy=RetryPolicy(budget_s=20))


def test_files_come_back_as_they_were_written(store: Store, tmp_path: Path) -> None:
    assert store.size("a") is None
    store.write("a", b"one")
    store.write("a", b"second")
    store.write("empty", b"")
    (tmp_path / "big").write_bytes(data := os.urandom(300_000))
    store.write_file("deep/er/big", tmp_path / "big")
    assert (store.size("a"), store.size("empty"), store.size("deep/er/big")) == (6, 0, 300_000)
    assert (store.read("a"), store.read("empty")) == (b"second", b"")
    store.fetch("deep/er/big", tmp_path / "new" / "copy", size=300_000)
    store.fetch("empty", tmp_path / "new" / "empty", size=0)
    assert (tmp_path / "new" / "copy").read_bytes() == data
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["copy", "empty"]


def test_a_file_is_created_once(store: Store) -> None:
    assert store.create("deep/a", b"mine")
    assert not store.create("deep/a", b"another's")
    assert store.read("deep/a") == b"mine"
    assert store.names() == ["deep/a"]


def test_of_many_that_create_a_file_at_once_one_does(store: Store) -> None:
    together = threading.Barrier(8)

    def create(number: int) -> list[bool]:
        made = []
        for name in ("a", "b", "c"):
            together.wait(30)
            made.append(store.create(name, str(number).encode()))
        return made

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(create, range(8)))
    for name, each in zip(("a", "b", "c"), zip(*made, strict=True), strict=True):
        assert sum(each) == 1
        assert store.read(name) == str(each.index(True)).encode()


def test_ranges_are_those_of_a_file(store: Store, tmp_path: Path) -> None:
    data = bytes(range(100))
    store.write("x", data)
    for offset, size in [(0, 10), (3, None), (90, 50), (99, 1), (100, 5), (500, None), (0, 0)]:
        assert store.read("x", offset, size) == data[offset:][:size], (offset, size)


def test_names_are_sorted_relative_and_by_prefix(store: Store) -> None:
    names = ["a/1", "a/2/3", "a b/ü+%.txt", "ab", "b", "日本/写真.webp", "x=1&y#2?"]
    for name in reversed(names):
        store.write(name, name.encode())
    assert store.names() == sorted(names)
    assert store.names("a") == ["a b/ü+%.txt", "a/1", "a/2/3", "ab"]
    assert store.names("a/") == ["a/1", "a/2/3"]
    assert store.names("a/2") == ["a/2/3"]
    assert store.names("none/") == []
    assert [store.read(name).decode() for name in names] == names
    store.delete("a/1")
    store.delete("a/1")
    assert store.names("a/") == ["a/2/3"]


def test_an_absent_file_is_told_apart(store: Store, tmp_path: Path) -> None:
    for read in (
        lambda: store.read("no"),
        lambda: store.read("no", 5, 5),
        lambda: store.read("no", 0, 0),
        lambda: store.fetch("no", tmp_path / "copy", size=1),
    ):
        with pytest.raises(MissingFileError, match=r"there is no file .*/no: ") as caught:
            read()
        assert isinstance(caught.value, UserError)
        assert isinstance(caught.value, FileNotFoundError)
    assert not list(tmp_path.rglob("*copy*"))


def test_a_file_of_another_size_is_refused(store: Store, tmp_path: Path) -> None:
    store.write("x", b"12345")
    with pytest.raises(UserError, match="has 5 bytes and not 6"):
        store.fetch("x", tmp_path / "copy", size=6)
    assert not list(tmp_path.rglob("*copy*"))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/"])
def test_names_never_leave_the_store(store: Store, name: str, tmp_path: Path) -> None:
    for use in (
        lambda: store.read(name),
        lambda: store.write(name, b""),
        lambda: store.create(name, b""),
        lambda: store.delete(name),
        lambda: store.fetch(name, tmp_path / "copy", size=0),
        lambda: store.size(name),
    ):
        with pytest.raises(UserError, match="is not a name inside a store"):
            use()
    with pytest.raises(UserError, match="is not a name inside a store"):
        store.names("../")


def _read_often(store: Store, name: str) -> bool:
    return all(store.read(name) == name.encode() * 10_000 for _ in range(10))


def _check(store: Store, name: str) -> None:
    assert _read_often(store, name)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_stores_work_in_other_processes(store: Store, method: str) -> None:
    for name in "abcd":
        store.write(name, name.encode() * 10_000)
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=_check, args=(store, name)) for name in "abcd"]
    for process in processes:
        process.start()
    assert _read_often(store, "a")
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.location, copy.read("a", 0, 3)) == (store.location, b"aaa")


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path))
    assert open_store("data/x").location == str(tmp_path / "data/x")
    assert open_store(tmp_path).location == str(tmp_path)
    assert open_store("s3://bucket").location == "s3://bucket"
    assert open_store("s3://bucket//a/b//").location == "s3://bucket/a/b"
    with pytest.raises(UserError, match="neither a path nor s3://"):
        open_store("gs://bucket/x")
    for nameless in ("s3://", "s3:///x"):
        with pytest.raises(UserError, match="names no bucket"):
            open_store(nameless)
    with pytest.raises(UserError, match="not a name inside a store"):
        open_store("s3://bucket/../x")


def test_local_failures_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot use .*file/x \(Not a directory\)"):
        LocalStore(tmp_path / "file").read("x")
    with pytest.raises(UserError, match="cannot use"):
        LocalStore(tmp_path / "file").write("x", b"")


def test_a_write_under_way_is_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("x.tar", b"1")
    store.write(".hidden", b"1")
    (tmp_path / ".x.tar-ab_12cd3").write_bytes(b"half")
    assert store.names() == [".hidden", "x.tar"]


class StillClock(TurnedClock):
    """It notes sleeps and is not turned by them."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_progress_gives_the_budget_back(caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock()
    slept = clock.slept
    policy = RetryPolicy(budget_s=10, first_delay_s=1, max_delay_s=4, clock=clock)
    retries = Retries(policy, "read x")
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            retries.failed(OSError("gone"))
    assert len(caplog.messages) == 1
    assert "could not read x (gone); trying for 10 s more" in caplog.messages[0]
    assert all(0 <= delay <= min(4, 2**n) for n, delay in enumerate(slept))
    assert max(slept) > 2
    clock.turn(9.5)
    slept.clear()
    for _ in range(20):
        retries.failed(OSError("gone"))
    assert max(slept) <= 0.5
    retries.progress()
    clock.turn(9.5)
    retries.failed(OSError("gone"))
    clock.turn(0.6)
    with pytest.raises(UserError, match=r"could not read x: nothing came through for 10 s.*'gone'"):
        retries.failed(OSError("gone"))


def test_a_stamp_changes_when_a_file_is_replaced(store: Store) -> None:
    store.write("a/one", b"first")
    store.write("a/two", b"other")
    before = store.stamps("a/")
    assert [(name, stamp.size) for name, stamp in before.items()] == [("a/one", 5), ("a/two", 5)]
    assert store.stamps("a/") == before
    store.write("a/one", b"again")
    after = store.stamps("a/")
    assert after["a/two"] == before["a/two"]
    assert after["a/one"].size == before["a/one"].size
    assert after["a/one"].mark != before["a/one"].mark
    assert {name: stamp.size for name, stamp in after.items()} == store.sizes("a/")
