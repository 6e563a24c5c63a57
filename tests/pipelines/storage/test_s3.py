import logging
import os
import threading
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.files import MissingFileError
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.s3 import CHUNK, S3Store
from pipelines.storage.store import Store, open_store
from tests.support.clock import LongPauses, TurnedClock
from tests.support.faulty_proxy import Fault, FaultyProxy, Seen
from tests.support.s3_server import BUCKET, S3Server, use_environment

MIB = 1 << 20
QUICK = RetryPolicy(clock=TurnedClock())
FAULTS = (
    Fault("drop"),
    Fault("lost"),
    Fault("slow_down"),
    Fault("truncate", at=1000),
    Fault("truncate", at=0),
    Fault("stall", seconds=0.05),
)


@pytest.fixture
def store(s3_proxy: FaultyProxy, s3_url: str) -> Store:
    return S3Store(s3_url, QUICK, page=7, part=5 * MIB)


def test_listings_are_put_together_from_pages(s3_proxy: FaultyProxy, store: Store) -> None:
    names = [f"x/{n:02}" for n in range(20)]
    for name in names:
        store.write(name, b"")
    s3_proxy.seen.clear()
    s3_proxy.plan(Fault("slow_down"), Fault("truncate", at=200))
    assert store.names("x/") == names
    assert len(s3_proxy.seen) == 3 + 2


def test_folder_markers_are_not_files(s3_server: S3Server, s3_url: str, store: Store) -> None:
    prefix = s3_url.removeprefix(f"s3://{BUCKET}/")
    s3_server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/folder/", Body=b"")
    store.write("folder/x", b"")
    assert store.names() == ["folder/x"]


@pytest.mark.parametrize("kind", ["drop", "lost", "slow_down"])
def test_whoever_created_a_file_learns_of_it_over_a_bad_network(
    kind: str, s3_proxy: FaultyProxy, store: Store
) -> None:
    s3_proxy.plan(Fault(kind, method="PUT"))
    assert store.create("a", b"mine")
    s3_proxy.plan(Fault(kind, method="PUT"))
    assert not store.create("a", b"another's")
    assert store.read("a") == b"mine"


def test_a_large_file_goes_and_comes_in_parts(
    s3_proxy: FaultyProxy, s3_url: str, tmp_path: Path
) -> None:
    data = os.urandom(20 * MIB + 17)
    (tmp_path / "up").write_bytes(data)
    store = open_store(s3_url, policy=QUICK)
    s3_proxy.plan(Fault("drop", method="PUT"), Fault("flip_request", at=5 * MIB, method="PUT"))
    store.write_file("big", tmp_path / "up")
    puts = [seen for seen in s3_proxy.seen if seen.method == "PUT"]
    assert len(puts) == 3 + 2, "three parts of 8 MiB, two of them twice"
    s3_proxy.seen.clear()
    store.fetch("big", tmp_path / "down", size=len(data))
    assert (tmp_path / "down").read_bytes() == data
    ranges = {seen.range for seen in s3_proxy.seen if seen.method == "GET"}
    assert ranges == {
        f"bytes=0-{8 * MIB - 1}",
        f"bytes={8 * MIB}-{16 * MIB - 1}",
        f"bytes={16 * MIB}-{20 * MIB + 16}",
    }


def test_a_lost_answer_to_the_last_request_of_an_upload(
    s3_proxy: FaultyProxy, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "up").write_bytes(data := os.urandom(6 * MIB))

    def lose(seen: Seen) -> None:
        # Not every server remembers uploads that it has completed.
        if seen.method == "POST" and "uploadId" in seen.path:
            seen.fault = "gone" if lost else "lost"
            lost.append(seen)

    lost: list[Seen] = []
    s3_proxy.before = lose
    store.write_file("x", tmp_path / "up")
    assert [seen.fault for seen in lost] == ["lost", "gone"]
    assert store.read("x") == data


def test_an_upload_that_fails_leaves_nothing_behind(
    s3_proxy: FaultyProxy, s3_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    (tmp_path / "up").write_bytes(os.urandom(11 * MIB))
    hasty = S3Store(s3_url, RetryPolicy(clock=TurnedClock()), part=5 * MIB)
    s3_proxy.chance(1.0, Fault("slow_down", method="PUT"))
    with pytest.raises(UserError, match=r"could not write .*SlowDown"):
        hasty.write_file("x", tmp_path / "up")
    assert hasty.names() == []
    uploads = s3_server.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [u for u in uploads if u["Key"].endswith("/x") and s3_url.endswith(u["Key"][:-2])] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.at}")
def test_a_fault_delays_but_never_corrupts(
    fault: Fault, s3_proxy: FaultyProxy, store: Store, tmp_path: Path
) -> None:
    data = os.urandom(300_000)
    s3_proxy.plan(fault, fault)
    store.write("x", data)
    s3_proxy.plan(fault, fault)
    assert store.read("x", 10, 200_000) == data[10:200_010]
    s3_proxy.plan(fault, fault, fault)
    store.fetch("x", tmp_path / "x", size=len(data))
    assert (tmp_path / "x").read_bytes() == data
    s3_proxy.plan(fault)
    assert store.names() == ["x"]
    s3_proxy.plan(fault)
    store.delete("x")
    assert store.size("x") is None
    s3_proxy.plan(fault)
    assert store.names("x") == []
    assert sum(bool(seen.fault) for seen in s3_proxy.seen) >= 9


def test_many_faults_at_once(s3_proxy: FaultyProxy, store: Store, tmp_path: Path) -> None:
    s3_proxy.chance(0.3, *FAULTS, seed=7)
    for number in range(10):
        data = os.urandom(100_000 + number)
        store.write(f"{number}", data)
        assert store.read(f"{number}") == data
        store.fetch(f"{number}", tmp_path / "x", size=len(data))
        assert (tmp_path / "x").read_bytes() == data
    assert store.names() == [str(number) for number in range(10)]
    assert sum(bool(seen.fault) for seen in s3_proxy.seen) > 10


def test_a_broken_body_is_continued_where_it_broke(s3_proxy: FaultyProxy, store: Store) -> None:
    data = os.urandom(3 * MIB)
    store.write("x", data)
    s3_proxy.seen.clear()
    s3_proxy.plan(Fault("truncate", at=2 * MIB))
    assert store.read("x") == data
    first, second = s3_proxy.seen
    assert (first.sent, second.range) == (2 * MIB, f"bytes={2 * MIB}-{3 * MIB - 1}")
    assert first.sent + second.sent <= len(data) + CHUNK


def test_a_stalled_server_is_left_after_the_timeout(
    s3_proxy: FaultyProxy, s3_url: str, store: Store
) -> None:
    store.write("x", b"data")
    hasty = open_store(s3_url, policy=RetryPolicy(timeout_s=0.2, clock=TurnedClock()))
    left, answered_too_soon = threading.Event(), threading.Event()

    def stall(seen: Seen) -> None:
        s3_proxy.before = lambda seen: None
        if not left.wait(60):
            answered_too_soon.set()

    s3_proxy.before = stall
    assert hasty.read("x") == b"data"
    assert not answered_too_soon.is_set()
    left.set()


def test_the_budget_ends_in_a_sentence(
    s3_proxy: FaultyProxy, s3_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = TurnedClock()
    hasty = open_store(s3_url, policy=RetryPolicy(budget_s=8, max_delay_s=2, clock=clock))
    s3_proxy.chance(1.0, Fault("slow_down"))
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as caught:
        hasty.read("x")
    assert clock.now() == pytest.approx(8)
    told = str(caught.value)
    assert f"could not read {s3_url}/x: nothing came through for 8 s" in told
    assert "SlowDown" in told
    assert [r.message for r in caplog.records if r.name == "pipelines.storage.retries"] != []
    assert len([r for r in caplog.records if r.name == "pipelines.storage.retries"]) == 1


def test_progress_gives_the_budget_back(s3_proxy: FaultyProxy, s3_url: str) -> None:
    clock = TurnedClock()
    hasty = open_store(s3_url, policy=RetryPolicy(budget_s=60, first_delay_s=1, clock=clock))
    hasty.write("x", data := os.urandom(1_000_000))
    s3_proxy.before = lambda seen: clock.turn(10)
    s3_proxy.chance(1.0, Fault("truncate", at=100_000, method="GET"))
    assert hasty.read("x") == data
    assert clock.now() > 90


def test_an_unreachable_server(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"could not write .*/x: .*127\.0\.0\.1:1"):
        open_store(s3_url, policy=RetryPolicy(clock=TurnedClock())).write("x", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(UserError, match="Invalid endpoint: nonsense"):
        open_store(s3_url).read("x")


def test_a_server_that_has_never_answered_is_given_up_within_seconds(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = RetryPolicy(clock=(clock := TurnedClock()))
    store = open_store(s3_url, policy=policy)
    store.write("x", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    stranger = open_store(s3_url, policy=policy)
    with pytest.raises(UserError, match=r"nothing came through for 1\d s"):
        stranger.read("x")
    assert clock.now() < 15
    # What has answered the driver is known to its workers, also when it is away at their start.
    rebuild, arguments = store.__reduce__()  # A turned clock cannot be pickled.
    sent = rebuild(*arguments)
    with pytest.raises(UserError, match=r"nothing came through for 6\d\d s"):
        sent.read("x")


def test_a_server_that_is_busy_at_first_is_waited_for(
    s3_proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.storage.s3._ANSWERED", set())
    s3_proxy.plan(Fault("slow_down"), Fault("slow_down"))
    open_store(s3_url, policy=RetryPolicy(clock=(clock := LongPauses()))).write("x", b"")
    assert clock.now() >= 40
    monkeypatch.setattr("pipelines.storage.s3._ANSWERED", set())
    s3_proxy.chance(1.0, Fault("slow_down"))
    stranger = open_store(s3_url, policy=RetryPolicy(clock=TurnedClock()))
    with pytest.raises(UserError, match=r"nothing came through for 1[2-4]\d s"):
        stranger.read("x")


def test_refusals_are_not_retried_and_keep_secrets(
    s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = RetryPolicy(clock=(clock := TurnedClock()))
    for use in (lambda s: s.read("x"), lambda s: s.size("x"), lambda s: s.names()):
        with pytest.raises(UserError, match=r"no bucket 'nowhere' at 127\.0\.0\.1:\d+: create it"):
            use(open_store("s3://nowhere/x", policy=policy))
    wrong = s3_server.environment | {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}
    use_environment(wrong, monkeypatch)
    for use in (lambda s: s.read("x"), lambda s: s.size("x"), lambda s: s.write("x", b"1")):
        with pytest.raises(UserError, match=r"refuses access to .*/x.*AWS_PROFILE") as caught:
            use(open_store(s3_url, policy=policy))
        assert "wrong-secret" not in str(caught.value)
    nobody = {k: v for k, v in wrong.items() if "KEY" not in k}
    use_environment(nobody, monkeypatch)
    with pytest.raises(UserError, match=r"there are no S3 credentials for .*: set AWS_PROFILE"):
        open_store(s3_url, policy=policy).names()
    use_environment(nobody | {"AWS_PROFILE": "absent"}, monkeypatch)
    with pytest.raises(UserError, match=r"no S3 credentials.*\(absent\)"):
        open_store(s3_url, policy=policy).names()
    assert clock.now() == 0


def test_parts_of_two_versions_never_mix(
    s3_proxy: FaultyProxy, s3_server: S3Server, s3_url: str, store: Store, tmp_path: Path
) -> None:
    old, new = b"o" * (11 * MIB), b"n" * (11 * MIB)
    (tmp_path / "new").write_bytes(new)
    store.write("x", old)
    gets = 0
    lock = threading.Lock()

    def replace(seen: Seen) -> None:
        nonlocal gets
        with lock:
            gets += seen.method == "GET"
            if seen.method == "GET" and gets == 2:
                key = f"{s3_url.removeprefix(f's3://{BUCKET}/')}/x"
                s3_server.client().put_object(Bucket=BUCKET, Key=key, Body=new)

    s3_proxy.before = replace
    store.fetch("x", tmp_path / "x", size=len(new))
    assert gets > 3
    assert (tmp_path / "x").read_bytes() == new

    s3_proxy.before = lambda seen: None
    store.write("x", old)
    gets = 0
    s3_proxy.before = replace
    s3_proxy.plan(Fault("truncate", at=MIB, method="GET"))
    assert store.read("x") == new


def test_a_version_of_another_size_is_refused(
    s3_proxy: FaultyProxy, store: Store, tmp_path: Path
) -> None:
    store.write("x", b"o" * 6 * MIB)

    def replace(seen: Seen) -> None:
        if seen.method == "GET":
            s3_proxy.before = lambda seen: None
            store.write("x", b"n" * 10)

    s3_proxy.before = replace
    with pytest.raises(UserError, match="has 10 bytes and not"):
        store.fetch("x", tmp_path / "x", size=6 * MIB)
    assert list(tmp_path.iterdir()) == []


def test_threads_share_a_store(store: Store) -> None:
    data = {f"{n}": os.urandom(50_000) for n in range(16)}
    for name, value in data.items():
        store.write(name, value)
    found: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: store.read(name)}))
        for name in data
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == data


def test_missing_after_a_retry_is_still_missing(s3_proxy: FaultyProxy, store: Store) -> None:
    s3_proxy.plan(Fault("slow_down"), Fault("drop"))
    with pytest.raises(MissingFileError):
        store.read("no")
