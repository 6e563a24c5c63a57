import contextlib
import hashlib
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.cache import ShardCache
from pipelines.errors import UserError
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import LocalStore, open_store
from tests.support.clock import TurnedClock
from tests.support.faulty_proxy import Fault, FaultyProxy

ROOT = Path(__file__).resolve().parents[3]
SIZE = 100_000


@dataclass(frozen=True)
class Shard:
    path: str
    sha256: str
    bytes: int


def put(store: Any, name: str, size: int = SIZE) -> Shard:
    data = hashlib.shake_256(name.encode()).digest(size)
    store.write(name, data)
    return Shard(name, hashlib.sha256(data).hexdigest(), size)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def content(cache: ShardCache, store: Any, shard: Shard) -> str:
    with cache.open(store, shard) as file:
        return hashlib.sha256(file.read()).hexdigest()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_a_shard_is_fetched_once(store: LocalStore, folder: Path) -> None:
    shard = put(store, "a.tar")
    cache = ShardCache(folder, SIZE)
    for _ in range(3):
        assert content(cache, store, shard) == shard.sha256
    assert (cache.fetches, cache.fetched_bytes, cache.hits) == (1, SIZE, 2)
    again = ShardCache(folder, SIZE)
    assert content(again, store, shard) == shard.sha256
    assert (again.fetches, again.hits) == (0, 1)
    assert files(folder) == {f"{shard.sha256}.tar"}


def test_files_of_others_in_the_folder_are_neither_counted_nor_evicted(
    store: LocalStore, folder: Path
) -> None:
    folder.mkdir()
    theirs = ["train-000007.tar", "movie.part", ".movie.part-abcdefgh"]
    for name in theirs:
        (folder / name).write_bytes(bytes(SIZE))
    for name in "ab":
        ShardCache(folder, SIZE).open(store, put(store, name)).close()
    assert set(theirs) < files(folder)


def test_the_least_recently_used_goes_first(store: LocalStore, folder: Path) -> None:
    a, b, c, d = (put(store, name) for name in "abcd")
    cache = ShardCache(folder, 3 * SIZE)
    for shard in (a, b, c, a):
        cache.open(store, shard).close()
        time.sleep(0.01)
    held = cache.open(store, b)
    cache.open(store, a).close()
    cache.open(store, d).close()
    assert files(folder) == {f"{shard.sha256}.tar" for shard in (a, b, d)}
    cache.open(store, put(store, "large", 3 * SIZE)).close()
    assert len(files(folder)) == 1
    assert hashlib.sha256(held.read()).hexdigest() == b.sha256, "an evicted shard stays readable"
    held.close()
    with pytest.raises(UserError, match=r"shard huge has .* MiB and the cache .* may hold only"):
        cache.open(store, put(store, "huge", 3 * SIZE + 1))


def test_what_is_released_goes_before_what_was_used_longer_ago(
    store: LocalStore, folder: Path
) -> None:
    a, b, c, d = (put(store, name) for name in "abcd")
    cache = ShardCache(folder, 3 * SIZE)
    for shard in (a, b, c):
        cache.open(store, shard).close()
        time.sleep(0.01)
    cache.release(c)
    cache.release(d)  # not there: fine
    cache.open(store, d).close()
    assert files(folder) == {f"{shard.sha256}.tar" for shard in (a, b, d)}


def _read_all(folder: Path, limit: int, location: str, shards: list[Shard], queue: Any) -> None:
    store, cache = open_store(location), ShardCache(folder, limit)
    right = all(content(cache, store, shard) == shard.sha256 for shard in shards)
    queue.put((right, cache.fetches, cache.hits))


def in_processes(count: int, *arguments: Any) -> list[tuple[bool, int, int]]:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_read_all, args=(*arguments, queue)) for _ in range(count)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return results


def test_processes_fetch_a_shard_once_between_them(
    s3_proxy: FaultyProxy, s3_url: str, folder: Path
) -> None:
    store = open_store(s3_url)
    shards = [put(store, f"{n}.tar") for n in range(5)]
    s3_proxy.seen.clear()
    results = in_processes(4, folder, 10 * SIZE, s3_url, shards)
    assert all(right for right, _, _ in results)
    assert sum(fetches for _, fetches, _ in results) == 5
    assert sum(hits for _, _, hits in results) == 15
    gets = [seen.path for seen in s3_proxy.seen if seen.method == "GET"]
    assert (len(gets), len(set(gets))) == (5, 5)


def test_the_limit_holds_while_processes_compete(store: LocalStore, folder: Path) -> None:
    shards = [put(store, f"{n}.tar") for n in range(12)]
    limit = int(2.5 * SIZE)
    largest, done = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.is_set():
            blocks = {}
            for path in [*folder.glob("*.tar"), *folder.glob("*.part"), *folder.glob(".*.part-*")]:
                with contextlib.suppress(FileNotFoundError):
                    # Blocks, since a reservation has a size and no bytes; by inode, since a file
                    # may be renamed while it is looked at.
                    blocks[path.stat().st_ino] = path.stat().st_blocks * 512
            largest = max(largest, sum(blocks.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    results = in_processes(4, folder, limit, store.location, shards * 3)
    done.set()
    watcher.join()
    assert all(right for right, _, _ in results)
    # Files are whole blocks, and one may come and another go while they are listed.
    assert SIZE < largest <= limit + SIZE + 4 * 8192
    assert sum(path.stat().st_size for path in folder.glob("*.*")) <= limit


def test_an_arrival_waits_for_room_that_another_holds(store: LocalStore, folder: Path) -> None:
    a, b = put(store, "a.tar"), put(store, "b.tar")
    arriving: list[str] = []
    go_on = threading.Event()

    class Slow(LocalStore):
        def fetch(self, name: str, path: Path, *, size: int) -> None:
            arriving.append(name)
            assert go_on.wait(20)
            super().fetch(name, path, size=size)

    slow = Slow(store.directory)
    clock = TurnedClock()
    cache = ShardCache(folder, 2 * SIZE - 1, RetryPolicy(clock=clock))
    opened: list[str] = []
    threads = [
        threading.Thread(target=lambda shard=shard: opened.append(content(cache, slow, shard)))
        for shard in (a, b)
    ]
    threads[0].start()
    wait_for(lambda: arriving)
    threads[1].start()
    wait_for(lambda: clock.now() > 1)
    assert arriving == ["a.tar"]
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert arriving == ["a.tar", "b.tar"]
    # A thread reads its shard after the cache let the next one in: whoever reads faster is first.
    assert set(opened) == {a.sha256, b.sha256}
    assert files(folder) == {f"{b.sha256}.tar"}


def test_damage_on_the_way_is_fetched_again(
    s3_proxy: FaultyProxy, s3_url: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(s3_url)
    shard = put(store, "x/a.tar")
    cache = ShardCache(folder, SIZE, RetryPolicy(clock=TurnedClock()))
    s3_proxy.plan(Fault("flip", at=50_000, method="GET"), Fault("flip", at=3, method="GET"))
    assert content(cache, store, shard) == shard.sha256
    assert cache.fetches == 3
    assert "a.tar" in caplog.text
    assert "sha256" in caplog.text


def test_wrong_content_is_refused_and_not_kept(store: LocalStore, folder: Path) -> None:
    shard = put(store, "a.tar")
    store.write("a.tar", b"x" * SIZE)
    clock = TurnedClock()
    cache = ShardCache(folder, SIZE, RetryPolicy(budget_s=30, clock=clock))
    with pytest.raises(UserError, match=r"shard .*/a\.tar is not what its manifest says.*sha256"):
        cache.open(store, shard)
    assert clock.now() == pytest.approx(30)
    assert files(folder) == set()


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_file_of_an_earlier_run_is_fetched_again(
    damage: str, store: LocalStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = put(store, "a.tar")
    ShardCache(folder, SIZE).open(store, shard).close()
    path = folder / f"{shard.sha256}.tar"
    with path.open("r+b") as file:
        if damage == "flip":
            file.seek(77)
            file.write(bytes([file.read(1)[0] ^ 1]))
        else:
            file.truncate(SIZE - 1)
    cache = ShardCache(folder, SIZE)
    assert content(cache, store, shard) == shard.sha256
    assert (cache.fetches, cache.hits) == (1, 0)
    assert "is damaged and is fetched again" in caplog.text


FETCH = """
import sys, tests.pipelines.data.test_cache as t
from pathlib import Path
from pipelines.storage.s3 import S3Store
cache = t.ShardCache(Path(sys.argv[1]), int(sys.argv[5]))
print("start", flush=True)
cache.open(S3Store(sys.argv[2], t.RetryPolicy(), 1000, 30_000),
           t.Shard("a.tar", sys.argv[3], int(sys.argv[4])))
"""


def test_a_killed_fetch_leaves_no_trace(s3_proxy: FaultyProxy, s3_url: str, folder: Path) -> None:
    store = open_store(s3_url)
    shard, other = put(store, "a.tar"), put(store, "b.tar")
    # The first parts arrive, the rest never do.
    s3_proxy.before = lambda seen: time.sleep(30) if "=90000-" in seen.range else None
    arguments = [str(folder), s3_url, shard.sha256, str(SIZE), str(SIZE)]
    for next_shard in (other, shard):
        with subprocess.Popen([sys.executable, "-c", FETCH, *arguments], cwd=ROOT) as process:
            wait_for(lambda: any(p.stat().st_blocks for p in folder.glob(".*.part-*")))
            process.send_signal(signal.SIGKILL)
        assert any(name.endswith(".part") for name in files(folder))
        # The limit is one shard's size: what the killed process held must be given back.
        cache = ShardCache(folder, SIZE)
        s3_proxy_before, s3_proxy.before = s3_proxy.before, lambda seen: None
        assert content(cache, store, next_shard) == next_shard.sha256
        assert files(folder) == {f"{next_shard.sha256}.tar"}
        s3_proxy.before = s3_proxy_before


def wait_for(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_disk_is_a_sentence(folder: Path) -> None:
    class Full:
        location = "full"

        def fetch(self, name: str, path: Path, *, size: int) -> None:
            with open("/dev/full", "wb") as file:
                file.write(b"x" * size)

    with pytest.raises(UserError, match=r"the disk that holds .*cache is full: free some space"):
        ShardCache(folder, SIZE).open(Full(), Shard("a", "0" * 64, SIZE))  # type: ignore[arg-type]
    assert files(folder) == set()
