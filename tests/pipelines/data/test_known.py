"""A later job reads only the photo files that are new, and finds the same dataset."""

import json
import os
import shutil
import zipfile
from itertools import starmap
from pathlib import Path

import pytest
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.schema import ShardConfig
from pipelines.data import shard
from pipelines.data.inspect import inspect
from pipelines.data.manifest import Manifest
from pipelines.data.sources import find_entries
from pipelines.data.sources.known import FILE_NAME, KnownFiles
from pipelines.storage.store import open_store
from tests.conftest import SMALL, write_dataset
from tests.support.faulty_proxy import FaultyProxy


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """The first four of the photos."""
    (tmp_path / "photos").mkdir()
    for path in sorted(photos.iterdir())[:4]:
        shutil.copy2(path, tmp_path / "photos")
    return tmp_path / "photos"


def add_others(photos: Path, folder: Path) -> None:
    for path in sorted(photos.iterdir())[4:]:
        shutil.copy2(path, folder)


def blackened(path: Path) -> None:
    """Replaces the bytes of a file behind the back of its size and its time of change."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_known_photos_of_a_folder_are_not_read_again(
    photos: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    before = write_dataset(folder, output)
    assert "Read 4 photo files; 0 more are known." in capsys.readouterr().out
    for path in folder.iterdir():
        blackened(path)
    add_others(photos, folder)
    after = write_dataset(folder, output)
    assert "Read 2 photo files; 4 more are known." in capsys.readouterr().out
    assert {s.sha256 for s in before.shards} < {s.sha256 for s in after.shards}
    # A new time of change is a new file.
    for path in folder.iterdir():
        os.utime(path)
    kept = [photo.name for photo in sorted(photos.iterdir())[4:]]
    found = inspect(find_entries(str(folder)), ShardConfig(), starmap, known(output))
    assert [photo.entry.name for photo in found.photos] == kept
    assert (found.num_known, len(found.skipped)) == (0, 4)


def known(output: Path) -> KnownFiles:
    return KnownFiles.load(open_store(output))


def test_known_photos_of_a_bucket_are_not_read_again(
    photos: Path, s3_url: str, s3_proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_store(f"{s3_url}/photos")
    first, *others = sorted(photos.iterdir())
    for path in others[:3]:
        source.write(path.name, path.read_bytes())
    output = f"{s3_url}/shards"
    write_dataset(source.location, output)
    assert sorted(read_photos(s3_proxy)) == sorted(path.name for path in others[:3] * 2)
    capsys.readouterr()

    source.write(first.name, first.read_bytes())  # a new name
    source.write(others[0].name, others[3].read_bytes())  # another content under an old one
    s3_proxy.seen.clear()
    now = write_dataset(source.location, output)
    assert set(read_photos(s3_proxy)) == {first.name, others[0].name}
    assert "Read 2 photo files; 2 more are known." in capsys.readouterr().out
    assert now.digest == Manifest.load(open_store(output)).digest

    s3_proxy.seen.clear()
    assert write_dataset(source.location, output).digest == now.digest
    assert read_photos(s3_proxy) == []
    assert [seen.path for seen in s3_proxy.seen if seen.method not in ("GET", "HEAD")] == []


def read_photos(proxy: FaultyProxy) -> list[str]:
    """The names of the photos of which a byte left the server."""
    gets = [seen.path.partition("?")[0] for seen in proxy.seen if seen.method == "GET"]
    return [path.rpartition("/")[2] for path in gets if "/photos/" in path]


def test_members_of_an_archive_are_known_until_it_changes(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for photo in sorted(photos.iterdir())[:4]:
            archive.write(photo, photo.name)
    write_dataset(path, tmp_path / "shards")
    entries = find_entries(str(path))
    assert inspect(entries, ShardConfig(), starmap, known(tmp_path / "shards")).num_known == 4
    os.utime(path, ns=(1, 1))
    entries = find_entries(str(path))
    assert inspect(entries, ShardConfig(), starmap, known(tmp_path / "shards")).num_known == 0


@pytest.mark.parametrize("data", [None, b"", b"{", b"[1]", b'{"version": 99, "files": []}'])
def test_without_the_record_all_is_read_again(
    folder: Path, tmp_path: Path, data: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    before, record = write_dataset(folder, output), (output / FILE_NAME).read_bytes()
    (output / FILE_NAME).unlink()
    if data is not None:
        (output / FILE_NAME).write_bytes(data)
    capsys.readouterr()
    config = load_config([f"recipe={SMALL}", f"source={folder}", f"output={output}"])
    shard.plan(config)
    assert write_dataset(folder, output).digest == before.digest
    said = capsys.readouterr().out
    assert "Read 4 photo files; 0 more are known." in said
    assert ("Reads all photos again: " in said) == (data is not None)
    assert (output / FILE_NAME).read_bytes() == record


def test_broken_and_equal_files_are_counted_the_same_when_they_are_known(
    folder: Path, tmp_path: Path
) -> None:
    first = min(folder.iterdir())
    shutil.copy2(first, folder / "z.png")
    (folder / "broken.png").write_bytes(first.read_bytes()[:3000] + b"x")
    (folder / "text.png").write_text("no photo")
    reports = []
    for _ in range(2):
        write_dataset(folder, tmp_path / "shards", "shard.max_failures=0.5")
        reports.append(json.loads((tmp_path / "shards" / "report.json").read_text()))
    assert reports[0] == reports[1]
    assert reports[0]["num_skipped"] == 3


def test_a_lower_limit_holds_for_known_photos_too(folder: Path, tmp_path: Path) -> None:
    write_dataset(folder, tmp_path / "shards")
    entries, record = find_entries(str(folder)), known(tmp_path / "shards")
    found = inspect(entries, ShardConfig(max_megapixels=0.01), starmap, record)
    assert {skipped.reason.partition(" (")[0] for skipped in found.skipped} == {"too many pixels"}


def test_nothing_new_needs_no_ray_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "shards"
    write_dataset(folder, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nothing listens there
    config = load_config(
        [f"recipe={SMALL}", f"source={folder}", f"output={output}", "shard.shard_mib=0.1"]
    )
    assert shard.run(config) == str(output)
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert {p for p in after if after[p] != before.get(p)} <= {output / ".lock"}


def test_a_name_that_json_cannot_hold_is_read_each_time(folder: Path, tmp_path: Path) -> None:
    with Image.open(min(folder.iterdir())) as photo:
        photo.rotate(180).save(tmp_path / "turned.png")
    os.rename(tmp_path / "turned.png", os.fsencode(folder) + b"/caf\xe9.png")
    digests = [write_dataset(folder, tmp_path / "shards").digest for _ in range(2)]
    assert digests[0] == digests[1]
    found = inspect(find_entries(str(folder)), ShardConfig(), starmap, known(tmp_path / "shards"))
    assert (found.num_files, found.num_known) == (5, 4)
