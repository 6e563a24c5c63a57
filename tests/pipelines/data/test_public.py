"""DIV2K and Flickr2K by name, from a server of the same layout with small files."""

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.schema import StreamConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.sources import describe_source, find_entries, public, read
from pipelines.errors import UserError
from tests.conftest import write_dataset
from tests.support.http_server import WebFile, WebServer


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def mirror(photos: Path, web_server: WebServer, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """Serves small archives under the sets' own file names; their checksums are expected."""
    data = [path.read_bytes() for path in sorted(photos.iterdir())]
    archives = {
        "DIV2K_train_HR.zip": zipped(
            {f"DIV2K_train_HR/000{i}.png": data[i] for i in range(3)} | {"DIV2K_train_HR/": b""}
        ),
        "DIV2K_valid_HR.zip": zipped({"DIV2K_valid_HR/0801.png": data[3]}),
        "Flickr2K.tar": tarred(
            {
                "Flickr2K/Flickr2K_HR/000001.png": data[4],
                "Flickr2K/Flickr2K_HR/000002.png": data[5],
                "Flickr2K/Flickr2K_LR_bicubic/X4/000001x4.png": data[0],
            }
        ),
    }
    for name, content in archives.items():
        web_server.add(name, WebFile(content))
    sets = {
        name: tuple(
            replace(
                archive,
                size=archive.size and len(archives[archive.file]),
                sha256=archive.sha256 and hashlib.sha256(archives[archive.file]).hexdigest(),
                md5=archive.md5 and hashlib.md5(archives[archive.file]).hexdigest(),
            )
            for archive in found
        )
        for name, found in public.SETS.items()
    }
    monkeypatch.setattr(public, "SETS", sets)
    monkeypatch.setattr("pipelines.data.sources.find.SETS", sets)
    return web_server


def test_the_sets_are_downloaded_once_and_read_in_place(mirror: WebServer, photos: Path) -> None:
    assert "would be downloaded first: DIV2K_train_HR.zip, DIV2K_valid_HR.zip" in describe_source(
        "div2k"
    )
    entries = find_entries(["div2k", "flickr2k"], mirror.url)
    assert [(entry.name, entry.split) for entry in entries] == [
        ("DIV2K_train_HR/0000.png", "train"),
        ("DIV2K_train_HR/0001.png", "train"),
        ("DIV2K_train_HR/0002.png", "train"),
        ("DIV2K_valid_HR/0801.png", "val"),
        ("Flickr2K/Flickr2K_HR/000001.png", "train"),
        ("Flickr2K/Flickr2K_HR/000002.png", "train"),
    ]
    contents = [path.read_bytes() for path in sorted(photos.iterdir())]
    assert [read(entry, 10**7) for entry in entries] == contents
    sent = sum(len(file.sent) for file in mirror.files.values())
    assert find_entries(["div2k", "flickr2k"], mirror.url) == entries
    assert sum(len(file.sent) for file in mirror.files.values()) == sent
    assert "4 photo files" in describe_source("div2k")


def test_an_interrupted_download_goes_on(mirror: WebServer) -> None:
    file = mirror.files["/DIV2K_train_HR.zip"]
    file.cuts.append(len(file.data) // 2)
    assert len(find_entries("div2k", mirror.url)) == 4
    assert [start for start, _ in file.sent] == [0, len(file.data) // 2]


def test_something_else_under_the_name_is_refused(mirror: WebServer) -> None:
    file = mirror.files["/Flickr2K.tar"]
    file.data = file.data[:-1] + b"x"
    with pytest.raises(UserError, match="Flickr2K"):
        find_entries("flickr2k", mirror.url)
    assert not (public.directory() / "Flickr2K.tar").exists()


def test_div2k_s_own_validation_photos_are_the_validation_split(
    mirror: WebServer, tmp_path: Path
) -> None:
    write_dataset("[div2k,flickr2k]", tmp_path, f"mirror={mirror.url}")
    opened = open_dataset(str(tmp_path), StreamConfig())
    for split, expected in (("val", {"0801"}), ("train", {"0000", "0001", "0002"})):
        found = {
            Path(json.loads(opened.read(sample)["json"])["source"]).stem
            for sample in opened.manifest.split(split)
        }
        assert found >= expected
        assert split == "train" or found == expected
