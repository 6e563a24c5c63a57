import gzip
import io
import os
import subprocess
import tarfile
import warnings
import zipfile
from itertools import starmap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config.schema import ShardConfig
from pipelines.data.images import UnusableError
from pipelines.data.inspect import inspect
from pipelines.data.sources import (
    SAMPLE,
    Entry,
    find,
    find_entries,
    is_photo_name,
    read,
)
from pipelines.errors import UserError
from pipelines.storage.paths import home


def png(number: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


NAMES = ["a photo.png", "ä/ü ñ.PNG", "deep/er/x.y.z.png", "日本.png", "quote'\".png"]


def write_folder(root: Path, names: list[str] = NAMES) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def write_zip(path: Path, names: list[str] = NAMES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, png(number))
    return path


def write_tar(path: Path, names: list[str] = NAMES, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(png(number))
            archive.addfile(info, io.BytesIO(png(number)))
    return path


def contents(entries: list[Entry]) -> dict[str, bytes]:
    return {entry.name: read(entry, 10**6) for entry in entries}


def test_the_sample_set_is_a_dozen_large_credited_photos() -> None:
    found = inspect(find_entries("sample"), ShardConfig(), starmap)
    assert len(found.photos) >= 12
    assert not found.skipped
    credits = (SAMPLE / "CREDITS.md").read_text()
    for photo in found.photos:
        assert max(photo.size.width, photo.size.height) >= 1000
        assert photo.entry.name in credits
        assert photo.sha256[:16] in credits
    assert sum(photo.entry.size for photo in found.photos) <= 8e6


def test_the_sample_set_holds_out_what_edge_sd_sr_tiny_was_not_trained_on() -> None:
    """These are two of the photos in the collection's validation folder."""
    held_out = {Path(e.name).name for e in find_entries("sample") if e.split == "val"}
    assert held_out == {"budgie_oakland-zoo-otters.jpg", "budgie_tea-gardens.jpg"}
    assert {entry.split for entry in find_entries("sample")} == {"train", "val"}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tgz", "tar.xz"])
def test_folders_and_archives_give_the_same_photos(tmp_path: Path, kind: str) -> None:
    expected = {name: png(number) for number, name in enumerate(NAMES)}
    if kind == "folder":
        path = write_folder(tmp_path / "folder")
    elif kind == "zip":
        path = write_zip(tmp_path / "photos of 2024.zip")
    else:
        modes = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.xz": "w:xz"}
        path = write_tar(tmp_path / f"photos.{kind}", mode=modes[kind])
    entries = find_entries(str(path))
    assert contents(entries) == expected
    assert [entry.name for entry in entries] == sorted(NAMES)
    assert find_entries(str(path)) == entries


def test_several_sources_are_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", ["b.png"])
    archive = write_zip(tmp_path / "z.zip", ["x.png", "y.png"])
    entries = find_entries([str(folder), str(archive)])
    assert [entry.name for entry in entries] == ["b.png", "x.png", "y.png"]
    found = inspect(entries, ShardConfig(), starmap)
    assert [photo.entry.name for photo in found.photos] == ["b.png", "y.png"]
    (skipped,) = found.skipped
    assert (skipped.name, skipped.reason) == ("x.png", "duplicate (of b.png)")
    assert not skipped.failure


def test_names_that_are_not_utf_8_are_read_and_shown(tmp_path: Path) -> None:
    raw = os.fsencode(str(tmp_path)) + b"/caf\xe9.png"
    with open(raw, "wb") as file:
        file.write(png(0))
    (entry,) = find_entries(str(tmp_path))
    assert read(entry, 10**6) == png(0)
    assert entry.label == "caf\\xe9.png"
    entry.label.encode()


def test_names_that_lead_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    """Archives are read in place: nothing is ever written under a member's name."""
    names = ["../../evil.png", "/etc/evil.png", "ok.png"]
    for path in (write_zip(tmp_path / "a.zip", names), write_tar(tmp_path / "a.tar", names)):
        assert contents(find_entries(str(path))) == {n: png(i) for i, n in enumerate(names)}
    assert not (tmp_path.parent / "evil.png").exists()


@pytest.mark.parametrize("cut", ["header", "member boundary", "inside a member"])
def test_a_tar_that_is_damaged_is_not_taken_for_a_shorter_one(tmp_path: Path, cut: str) -> None:
    path = write_tar(tmp_path / "a.tar")
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        third = archive.getmembers()[2]
    if cut == "header":
        data[third.offset + 10] ^= 0xFF
    elif cut == "member boundary":
        del data[third.offset :]
    else:
        del data[third.offset_data + 20 :]
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged|not a readable") as error:
        find_entries(str(path))
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "folder")
    real = os.scandir

    def failing(path: str) -> object:
        if str(path).endswith("deep"):
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(UserError, match="Input/output error"):
        find_entries(str(folder))


def test_links_in_a_tar_are_no_photos(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with pytest.raises(UserError, match="holds no photo"):
        find_entries(str(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", True),
        ("deep/a.b.JPG", True),
        ("../a.png", True),
        (".hidden.png", False),
        (".thumbnails/a.png", False),
        ("__MACOSX/a.png", False),
        ("a.txt", False),
        ("png", False),
    ],
)
def test_photos_are_told_by_their_extension(name: str, expected: bool) -> None:
    assert is_photo_name(name) is expected


def test_unusable_sources_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    whole = write_zip(tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    packed = write_tar(tmp_path / "whole.tar.gz", mode="w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(packed[: len(packed) // 2])
    for name, message in {
        "nosuch": "does not exist",
        "empty": "holds no photo",
        "note.txt": "not a readable zip or tar",
        "bad.tar": "not a readable zip or tar",
        "cut.zip": "not a readable zip or tar",
        "cut.tar.gz": "cannot be decompressed",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            find_entries(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"several sources are a list: source=\[a,b\]"):
        find_entries("div2k,flickr2k")
    for wrong in (3, [], [1], {"a": 1}):
        with pytest.raises(UserError, match="source must be a name or a list"):
            find_entries(wrong)  # type: ignore[arg-type]


def test_a_tar_of_no_use_leaves_no_copy(tmp_path: Path) -> None:
    """A few bytes unpack to very many, and work/sources would keep them."""
    packed = write_tar(tmp_path / "photos.tar.gz", mode="w:gz")
    gib = len(gzip.decompress(packed.read_bytes())) / 2**30
    with pytest.raises(UserError, match=r"photos.tar.gz unpacks to more than shard.max_unpacked_g"):
        find_entries(str(packed), max_unpacked_gib=gib * 0.9)
    (tmp_path / "zeros.tgz").write_bytes(gzip.compress(bytes(10**6)))
    whole = gzip.decompress(packed.read_bytes()).rstrip(b"\0")
    (tmp_path / "cut.tgz").write_bytes(gzip.compress(whole))
    for name, why in {
        "zeros": "holds no photo",
        "cut": r"cut\.tgz is (cut or damaged|not a)",
    }.items():
        with pytest.raises(UserError, match=why):
            find_entries(str(tmp_path / f"{name}.tgz"))
    copies = home() / "work" / "sources"
    assert list(copies.iterdir()) == []
    assert find_entries(str(packed), max_unpacked_gib=gib)
    assert len(list(copies.iterdir())) == 1


def test_what_cannot_be_read_is_skipped_with_a_reason(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", ["a.png", "b.png"])
    (folder / "broken link.png").symlink_to(tmp_path / "nosuch")
    (folder / "linked.png").symlink_to(folder / "a.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello")
    (folder / "large.png").write_bytes(b"x" * 2**20 + b"x")
    os.mkfifo(folder / "pipe.png")
    found = inspect(find_entries(str(folder)), ShardConfig(max_file_mib=1), starmap)
    assert [photo.entry.name for photo in found.photos] == ["a.png", "b.png"]
    assert {skipped.name: skipped.reason for skipped in found.skipped} == {
        "broken link.png": "cannot be read (No such file or directory)",
        "empty.png": "empty file",
        "large.png": "too large a file (1 MiB: shard.max_file_mib)",
        "linked.png": "duplicate (of a.png)",
        "pipe.png": "cannot be read (it is a pipe or a device, not a file)",
        "text.png": "not an image",
    }
    assert {s.name for s in found.skipped if not s.failure} == {"linked.png"}
    assert found.reasons()["not an image"] == 1


def test_damage_inside_an_archive_is_one_photo_s_failure(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ["a.png", "b.png", "c.png"])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("b.png").header_offset + 60
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    found = inspect(find_entries(str(path)), ShardConfig(), starmap)
    assert [photo.entry.name for photo in found.photos] == ["a.png", "c.png"]
    assert "damaged in its archive" in found.skipped[0].reason


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_member_is_skipped_however_it_is_packed(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("a.png", png(1, 64))
    data = bytearray(path.read_bytes())
    data[60:100] = b"\xff" * 40
    path.write_bytes(data)
    (entry,) = find_entries(str(path))
    with pytest.raises(UnusableError, match="damaged in its archive"):
        read(entry, 10**6)


def test_a_zip_that_lies_about_sizes_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 5_000_000)
    (entry,) = find_entries(str(path))
    with pytest.raises(UnusableError, match="too large a file"):
        read(entry, 1_000_000)
    lying = Entry(entry.kind, entry.container, entry.name, size=10)
    with pytest.raises(UnusableError, match="zip bomb"):
        read(lying, 1_000_000)


def test_a_submitted_job_refuses_photos_in_its_uploaded_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    write_folder(copy / "photos")
    monkeypatch.setattr(find, "ROOT", copy)
    assert len(find_entries(str(copy / "photos"))) == len(NAMES)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match=r"uploaded copy of the checkout.*outside the checkout"):
        find_entries(str(copy / "photos"))
    # A job without a working directory runs in the checkout itself.
    monkeypatch.setattr(find, "ROOT", tmp_path)
    assert len(find_entries(str(copy / "photos"))) == len(NAMES)
    assert len(find_entries("sample")) == 13


def test_a_submitted_job_says_that_photos_of_the_checkout_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError) as alone:
        find_entries("photos")
    assert "uploaded" not in str(alone.value)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="are not uploaded: put them into a folder that all nodes"):
        find_entries("photos")


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_photo_with_holes_is_not_read_as_another(tmp_path: Path, form: str) -> None:
    """`tar --sparse` packs a file without its zeros."""
    with (tmp_path / "a.bmp").open("wb") as file:
        file.write(b"BM")
        file.seek(2**20)
        file.write(b"end")
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    archive = tmp_path / "a.tar"
    names = ("a.bmp", "0.png", "1.png")
    packed = ["tar", "--sparse", f"--format={form}", "-cf", archive, "-C", tmp_path, *names]
    subprocess.run(packed, check=True)
    with pytest.raises(UserError, match=r"holds a\.bmp with holes.*pack it again without --sparse"):
        find_entries(str(archive))


def test_two_members_of_one_name_are_two_photos(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(2):
            archive.writestr("a.png", png(number))
    entries = find_entries(str(path))
    assert [read(entry, 2**20) for entry in entries] == [png(0), png(1)]
    assert len({entry.mark for entry in entries}) == 2
