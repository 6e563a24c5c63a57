import dataclasses
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset

from pipelines.data import shard
from pipelines.data.manifest import Manifest
from pipelines.data.sources import find_photos, read_rgb
from pipelines.data.stream import read_sample, read_tile
from pipelines.errors import UserError
from pipelines.schema import ShardConfig
from tests.conftest import write_dataset


def test_the_same_photos_give_the_same_bytes(photos: Path, dataset: Path, tmp_path: Path) -> None:
    again = write_dataset(photos, tmp_path)
    assert again == Manifest.load(dataset)
    for name in ["manifest.json", *(s.path for s in again.shards)]:
        assert (tmp_path / name).read_bytes() == (dataset / name).read_bytes()


def test_stock_webdataset_reads_the_shards(photos: Path, dataset: Path) -> None:
    manifest = Manifest.load(dataset)
    urls = [str(dataset / s.path) for s in manifest.shards]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == [s.key for s in manifest.samples]
    by_name = {photo.name: photo for photo in find_photos(str(photos))}
    for sample in found:
        left, top, right, bottom = sample["json"]["box"]
        photo = read_rgb(by_name[sample["json"]["source"]].path)
        assert np.array_equal(sample["png"], photo[top:bottom, left:right])
        assert "." not in sample["__key__"]


def test_samples_are_found_by_offset_alone(dataset: Path) -> None:
    manifest = Manifest.load(dataset)
    for sample in manifest.samples:
        found = read_sample(dataset, manifest, sample)
        assert found["__key__"] == sample.key
        tile = cv2.imdecode(np.frombuffer(found["png"], np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(read_tile(dataset, manifest, sample), tile[..., ::-1])


def test_a_photo_is_in_one_split_only_and_shards_are_closed_in_time(dataset: Path) -> None:
    manifest = Manifest.load(dataset)
    splits: dict[str, set[str]] = {"train": set(), "val": set()}
    for sample in manifest.samples:
        meta = json.loads(read_sample(dataset, manifest, sample)["json"])
        splits[sample.split].add(meta["source"])
    assert splits["train"]
    assert splits["val"]
    assert not splits["train"] & splits["val"]
    assert len(manifest.shards) > 2
    for entry in manifest.shards:
        with tarfile.open(dataset / entry.path) as tar:
            assert all(m.mtime == 0 and m.uname == "srforge" for m in tar.getmembers())


def test_tiles_cover_a_photo_to_its_last_pixel() -> None:
    image = np.zeros((300, 521, 3), np.uint8)
    covered = np.zeros((300, 521), bool)
    for y, x in shard.cut(image, 256):
        covered[y : y + 256, x : x + 256] = True
    assert covered.all()
    assert list(shard.cut(image, 301)) == []


def test_the_split_follows_content_and_keeps_one_photo_on_each_side(photos: Path) -> None:
    found = find_photos(str(photos))
    few = shard.validation_photos(found, 0.3)
    assert shard.validation_photos(found[::-1], 0.3) == few
    assert len(shard.validation_photos(found, 0.0001)) == 1
    assert len(shard.validation_photos(found, 0.9999)) == len(found) - 1
    # Photos that are added later do not move the others.
    assert shard.validation_photos(found[:4], 0.3) <= few | shard.validation_photos(found[:4], 0.01)
    with pytest.raises(UserError, match="give at least 2"):
        shard.validation_photos(found[:1], 0.3)


def test_photos_smaller_than_a_tile_are_named_and_a_split_without_any_is_refused(
    photos: Path,
) -> None:
    found = find_photos(str(photos))
    small = dataclasses.replace(found[0], side=100, sha256="f" * 64)
    settings = ShardConfig(tile=128, val_tile=128, val_fraction=0.3)
    splits, skipped = shard.assign([small, *found[1:]], settings)
    assert skipped == [small]
    assert list(splits) == found[1:]
    with pytest.raises(UserError, match="every photo for the split 'val' is smaller"):
        shard.assign(found, ShardConfig(tile=128, val_tile=512))


def test_damage_is_noticed(dataset: Path, photos: Path, tmp_path: Path) -> None:
    manifest = write_dataset(photos, tmp_path)
    assert manifest.damaged_shards(tmp_path) == []
    path = tmp_path / manifest.shards[0].path
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert manifest.damaged_shards(tmp_path) == [manifest.shards[0].path]
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match="is missing or truncated"):
        Manifest.load(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"split": "val"', '"split": "train"', 1))
    with pytest.raises(UserError, match="is damaged or of another version"):
        Manifest.load(tmp_path)
    with pytest.raises(UserError, match="there is no dataset in"):
        Manifest.load(tmp_path / "nosuch")
