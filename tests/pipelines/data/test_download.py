import hashlib
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.data.download import download
from pipelines.errors import UserError
from pipelines.storage.retries import RetryPolicy
from tests.support.clock import TurnedClock
from tests.support.http_server import WebFile, WebServer, http_date

ROOT = Path(__file__).resolve().parents[3]
SIZE = 3_000_000
DATA = hashlib.shake_256(b"archive").digest(SIZE)
SHA256, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "archive.zip"


def left(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")}


def get(url: str, path: Path, **options: object) -> None:
    policy = RetryPolicy(clock=TurnedClock())
    settings = {"size": SIZE, "sha256": SHA256, "policy": policy} | options
    download(url, path, **settings)  # type: ignore[arg-type]


def test_a_file_arrives_whole_and_only_once(
    web_server: WebServer, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = WebFile(DATA)
    url = web_server.add("archive.zip", file)
    get(url, path, md5=MD5)
    assert path.read_bytes() == DATA
    assert left(path) == {"archive.zip"}
    assert "download archive.zip 100%|" in (printed := capsys.readouterr().out)
    assert "3/3" in printed
    get(url, path, sha256=None)
    get(url, path, size=None)
    assert file.sent == [(0, SIZE)]
    path.write_bytes(DATA[:-1])
    with pytest.raises(UserError, match=r"archive\.zip is not the file of .*: delete it"):
        get(url, path)
    assert path.read_bytes() == DATA[:-1], "a file of the user's is not deleted"


def test_the_part_of_a_browser_stays(web_server: WebServer, path: Path) -> None:
    url = web_server.add("archive.zip", WebFile(DATA))
    part, note = (path.with_name(f"archive.zip{suffix}") for suffix in (".part", ".part.json"))
    path.parent.mkdir()
    part.write_bytes(b"1")
    with pytest.raises(UserError, match="is not a download of SRMill: remove or rename it"):
        get(url, path)
    note.write_bytes(b"[]")
    with pytest.raises(UserError, match=r"part\.json is damaged"):
        get(url, path)
    assert part.read_bytes() == b"1"


@pytest.mark.parametrize("validator", ["etag", "date"])
def test_a_dropped_line_is_picked_up_where_it_dropped(
    web_server: WebServer, path: Path, validator: str
) -> None:
    file = WebFile(DATA, cuts=[1_000_000, 500_000, 0])
    if validator == "date":
        file.etag, file.date = None, http_date(1e9)
    file.statuses = [503, 429]
    get(web_server.add("x", file), path)
    assert path.read_bytes() == DATA
    assert file.sent == [
        (0, 1_000_000),
        (1_000_000, 500_000),
        (1_500_000, 0),
        (1_500_000, 1_500_000),
    ]


def test_without_ranges_it_starts_again(web_server: WebServer, path: Path) -> None:
    file = WebFile(DATA, ranges=False, cuts=[1_000_000])
    get(web_server.add("x", file), path)
    assert path.read_bytes() == DATA
    assert file.sent == [(0, 1_000_000), (0, SIZE)]


def test_without_a_version_it_starts_again(web_server: WebServer, path: Path) -> None:
    file = WebFile(DATA, etag='W/"weak"', cuts=[1_000_000])
    get(web_server.add("x", file), path)
    assert file.sent == [(0, 1_000_000), (0, SIZE)]


def test_versions_never_mix(web_server: WebServer, path: Path) -> None:
    old = WebFile(b"o" * SIZE, etag='"old"', cuts=[1_000_000])
    url = web_server.add("x", old)
    with pytest.raises(UserError, match=r"could not download .*503"):
        _interrupted(old, url, path)
    assert left(path) == {"archive.zip.part", "archive.zip.part.json"}
    new = WebFile(DATA, etag='"new"')
    web_server.add("x", new)
    get(url, path)
    assert path.read_bytes() == DATA
    assert new.sent == [(0, SIZE)]


def _interrupted(file: WebFile, url: str, path: Path) -> None:
    """A download whose line drops once and whose server is down from then on."""
    file.answers = 1
    get(url, path)


def test_a_part_longer_than_the_file_is_dropped(web_server: WebServer, path: Path) -> None:
    file = WebFile(DATA, cuts=[1_000_000])
    url = web_server.add("x", file)
    with pytest.raises(UserError, match="503"):
        _interrupted(file, url, path)
    part = path.with_name("archive.zip.part")
    part.write_bytes(DATA + b"more")
    file.answers, file.sent = None, []
    get(url, path)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("sums", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}])
def test_wrong_content_is_refused_and_deleted(
    web_server: WebServer, path: Path, sums: dict[str, str]
) -> None:
    url = web_server.add("x", WebFile(DATA))
    with pytest.raises(UserError, match=r"not the file that was expected, and was deleted: try"):
        get(url, path, **sums)
    assert left(path) == set()


def test_refusals_are_not_retried(web_server: WebServer, path: Path) -> None:
    policy = RetryPolicy(clock=(clock := TurnedClock()))
    with pytest.raises(UserError, match=r"/none cannot be downloaded \(404 Not Found\): correct"):
        get(f"{web_server.url}/none", path, policy=policy)
    with pytest.raises(UserError, match=f"has {SIZE} bytes and not 7: the file was replaced"):
        get(web_server.add("x", WebFile(DATA)), path, size=7, policy=policy)
    with pytest.raises(UserError, match="cannot download 'file:///etc/passwd'"):
        get("file:///etc/passwd", path)
    assert clock.now() == 0
    assert left(path) == set()


def test_no_network_ends_in_a_sentence(path: Path) -> None:
    clock = TurnedClock()
    with pytest.raises(
        UserError, match=r"could not download http://127\.0\.0\.1:1/x: nothing came"
    ):
        get("http://127.0.0.1:1/x", path, policy=RetryPolicy(budget_s=300, clock=clock))
    assert clock.now() == pytest.approx(300)


def test_a_silent_server_is_left_after_the_timeout(web_server: WebServer, path: Path) -> None:
    file = WebFile(DATA, delay_s=60)
    # So long a first pause that two or three attempts use up the budget.
    policy = RetryPolicy(timeout_s=0.1, first_delay_s=600, max_delay_s=600, clock=TurnedClock())
    with pytest.raises(UserError, match="timed out"):
        get(web_server.add("x", file), path, policy=policy)
    assert len(file.sent) >= 2


def test_a_full_disk_is_a_sentence(web_server: WebServer, path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "archive.zip.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"the disk that holds .*archive\.zip is full: free some"):
        get(web_server.add("x", WebFile(DATA)), path)


DOWNLOAD = """
import sys, tests.pipelines.data.test_download as t
t.get(sys.argv[1], t.Path(sys.argv[2]))
"""


def test_a_killed_download_is_resumed(web_server: WebServer, path: Path) -> None:
    file = WebFile(DATA, delay_s=0.05)
    url = web_server.add("x", file)
    part = path.with_name("archive.zip.part")
    arguments = [sys.executable, "-c", DOWNLOAD, url, str(path)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size > 500_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    here = part.stat().st_size
    assert 500_000 < here < SIZE
    file.delay_s = 0
    get(url, path)
    assert path.read_bytes() == DATA
    assert file.sent[1:] == [(here, SIZE - here)]


def test_two_processes_download_one_file_once(web_server: WebServer, path: Path) -> None:
    file = WebFile(DATA, delay_s=0.005)
    url = web_server.add("x", file)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=get, args=(url, path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert path.read_bytes() == DATA
    assert file.sent == [(0, SIZE)]
