import hashlib
from dataclasses import replace
from itertools import starmap
from pathlib import Path

import pytest

from pipelines.config.schema import StreamConfig
from pipelines.data import verify
from pipelines.data.manifest import Manifest
from pipelines.data.verify import check_shard
from pipelines.errors import UserError
from pipelines.storage.store import open_store
from tests.conftest import write_dataset


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_every_byte_counts_and_damage_is_located(photos: Path, tmp_path: Path) -> None:
    manifest = write_dataset(photos, tmp_path)
    store = open_store(tmp_path)
    shard = manifest.shards[0]
    assert check_shard(store, shard) == []
    middle = len(shard) // 2
    flip(tmp_path / shard.path, int(shard.offsets[middle]) + 600)
    (problem,) = check_shard(store, shard)
    assert problem.startswith(f"{shard.path}: sample {shard.keys[middle].decode()} (bytes ")
    flip(tmp_path / shard.path, int(shard.offsets[middle]) + 600)
    flip(tmp_path / shard.path, shard.bytes - 1)
    assert check_shard(store, shard) == [f"{shard.path}: damaged outside of the samples"]


def test_webdataset_must_read_what_the_manifest_lists(photos: Path, tmp_path: Path) -> None:
    shard = write_dataset(photos, tmp_path).shards[0]
    other = replace(shard, keys=shard.keys[::-1].copy())
    told = f"{shard.path}: holds other samples than the manifest lists"
    assert check_shard(open_store(tmp_path), other) == [told]
    path = tmp_path / shard.path
    path.write_bytes(b"no tar" * 1000)
    other = replace(shard, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    [problem] = check_shard(open_store(tmp_path), other)
    assert problem.startswith(f"{shard.path}: webdataset cannot read it (")


def test_the_job_says_what_is_wrong_and_what_to_do(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_dataset(photos, tmp_path)
    verify.run(str(tmp_path), StreamConfig(), mapper=starmap)
    assert f"{manifest.digest} says" in capsys.readouterr().out
    (tmp_path / manifest.shards[1].path).unlink()
    flip(tmp_path / manifest.shards[2].path, 600)
    with pytest.raises(UserError, match=f"2 of {len(manifest.shards)} shards .* are damaged"):
        verify.run(str(tmp_path), StreamConfig(), mapper=starmap)
    said = capsys.readouterr().out
    assert f"{manifest.shards[1].path}: missing" in said
    assert f"{manifest.shards[2].path}: sample" in said
    # What it says to do, done.
    (tmp_path / manifest.shards[2].path).unlink()
    write_dataset(photos, tmp_path)
    verify.run(str(tmp_path), StreamConfig(), mapper=starmap)
    assert Manifest.load(open_store(tmp_path)).digest == manifest.digest
