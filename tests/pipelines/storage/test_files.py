"""Local files and folders that appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.errors import UserError
from pipelines.storage.files import (
    local_files,
    new_directory,
    open_regular,
    read_json,
    whole_file,
    write_bytes,
    write_json,
)
from pipelines.storage.tensors import save_tensors


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with new_directory(target) as new:
        (new / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"

    def fail() -> None:
        with new_directory(target) as new:
            (new / "a").write_text("2")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert (target / "a").read_text() == "1"

    def replace(check: Callable[[], None] | None = None) -> None:
        with new_directory(target, check) as new:
            (new / "a").write_text("2")

    def refuse() -> None:
        raise UserError("somebody else's")

    with pytest.raises(UserError, match="somebody else's"):
        replace(refuse)
    with pytest.raises(OSError, match="not empty"):
        replace()
    assert (target / "a").read_text() == "1"
    with new_directory(target, check=lambda: None) as new:
        (new / "b").write_text("3")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_files_are_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "x.json", {"b": 1, "a": [2]})
    assert read_json(tmp_path / "deep" / "x.json") == {"a": [2], "b": 1}
    write_bytes(tmp_path / "y", b"1")
    write_bytes(tmp_path / "y", b"2")
    assert (tmp_path / "y").read_bytes() == b"2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "y"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_rights_follow_the_users_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "file", b"1")
        with new_directory(tmp_path / "folder") as new:
            save_tensors({"a": torch.zeros(1)}, new / "tensors")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert found == {"file": 0o666 & ~mask, "folder": 0o777 & ~mask, "tensors": 0o666 & ~mask}


def test_a_block_that_fails_leaves_the_older_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"old")

    def fail() -> None:
        with whole_file(tmp_path / "x") as temporary:
            temporary.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("durable", [True, False])
def test_bytes_reach_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    synced: list[tuple[int, int, bool]] = []

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        synced.append((found.st_ino, found.st_size, (tmp_path / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(tmp_path / "x", durable=durable) as temporary:
        temporary.write_bytes(b"12345")
    inode = (tmp_path / "x").stat().st_ino
    assert synced == ([(inode, 5, False)] if durable else [])


def test_a_refusal_of_the_file_system_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="correct the path or its rights"):
        write_bytes(tmp_path / "file" / "x", b"1")


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    write_bytes(tmp_path / name, b"1")
    with new_directory(tmp_path / f"{name[:-1]}d") as directory:
        (directory / "x").write_text("2")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"{name[:-1]}d"])


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"1")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"1"
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with (
            pytest.raises(UserError, match=r"cannot use .* \((it is a pipe or a device|Is a dir)"),
            local_files(path),
            open_regular(path),
        ):
            pass
