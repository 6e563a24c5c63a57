import hashlib
import json
import os
import pickle
import resource
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from pipelines.config.schema import StreamConfig
from pipelines.data.dataset import open_dataset, split_location
from pipelines.data.manifest import Manifest, Shard
from pipelines.errors import UserError
from pipelines.storage.store import open_store
from tests.conftest import write_dataset


def test_the_digest_can_be_computed_without_us(dataset: Path) -> None:
    """The test computes it from the file alone, as docs/data.md says it."""
    raw = json.loads((dataset / "manifest.json").read_text())
    head = {"version": raw["version"], "settings": raw["settings"]}
    lines = [json.dumps(x, sort_keys=True, separators=(",", ":")) for x in (head, *raw["shards"])]
    text = "".join(f"{line}\n" for line in lines)
    assert hashlib.sha256(text.encode()).hexdigest() == raw["digest"]
    for shard in raw["shards"]:
        data = (dataset / shard["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert len(data) == shard["bytes"]


def test_a_manifest_survives_being_saved(dataset: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(open_store(dataset))
    manifest.save(open_store(tmp_path))
    again = Manifest.load(open_store(tmp_path))
    assert again.digest == manifest.digest
    assert again.split("train") == manifest.split("train")
    assert again.to_json() == manifest.to_json()
    history = (tmp_path / "manifests" / f"{manifest.digest}.json").read_bytes()
    assert history == (tmp_path / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"split":"val"', '"split":"train"'),
        ('"version":2', '"version":1'),
        ('"keys":["', '"keys":["x","'),
        ('"shards":', '"shard":'),
        ("}", ""),
        ('"crc32":[', '"crc32":[-5,'),
    ],
)
def test_an_edited_manifest_is_refused(dataset: Path, tmp_path: Path, old: str, new: str) -> None:
    text = (dataset / "manifest.json").read_text()
    assert old in text
    (tmp_path / "manifest.json").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match="is damaged or of another version"):
        Manifest.load(open_store(tmp_path))


def test_one_long_key_does_not_ask_for_memory_times_the_number_of_keys(
    dataset: Path, tmp_path: Path
) -> None:
    raw = json.loads((dataset / "manifest.json").read_text())
    raw["shards"][0]["keys"] += ["a" * 10**6] + ["b"] * 10**6
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    usage = resource.getrlimit(resource.RLIMIT_AS)
    # As an array, the keys would take a terabyte.
    resource.setrlimit(resource.RLIMIT_AS, (2**37, usage[1]))
    try:
        with pytest.raises(UserError, match="is damaged or of another version"):
            Manifest.load(open_store(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usage)


def test_no_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no dataset in .*make one with"):
        open_dataset(str(tmp_path / "nosuch"), StreamConfig())


def test_a_location_may_name_an_earlier_manifest() -> None:
    assert split_location("/a/b") == ("/a/b", "manifest.json")
    assert split_location("/a/manifests/x.json") == ("/a", "manifests/x.json")
    assert split_location("s3://b/p/manifests/x.json") == ("s3://b/p", "manifests/x.json")
    assert split_location("/a/old.json") == ("/a", "old.json")


def test_an_opened_dataset_reads_the_same_elsewhere(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has another home and another current directory."""
    opened = open_dataset(str(dataset), StreamConfig())
    sample = opened.manifest.split("train")[0]
    data = pickle.dumps(opened)
    home = Path(os.environ["SRMILL_HOME"])
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(data)
    assert np.array_equal(again.tile(sample), opened.tile(sample))
    assert again.manifest.digest == opened.manifest.digest
    assert again.cache_folder.path == home / "work/cache"


def test_a_damaged_sample_is_named_when_it_is_read(photos: Path, tmp_path: Path) -> None:
    manifest = write_dataset(photos, tmp_path)
    dataset = open_dataset(str(tmp_path), StreamConfig())
    first, second = manifest.split("train")[:2]
    path = tmp_path / manifest.shards[first.shard].path
    data = bytearray(path.read_bytes())
    data[first.offset + 700] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"is damaged at sample {first.key}: .* verify=true"):
        dataset.tile(first)
    assert dataset.tile(second).shape == (128, 128, 3)


def member(name: str, data: bytes, size: int | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "data",
    [
        member("a.webp", b"no image"),
        member("a.json", b"{}"),
        member("a.webp", b"", size=-512),
        member("a.webp", b"", size=10**12),
        b"no tar" * 100,
    ],
)
def test_bytes_that_are_no_sample_are_refused(tmp_path: Path, data: bytes) -> None:
    """A manifest of somebody else may name them, with a checksum that is right."""
    shard = Shard.from_json(
        {
            "path": "train-000000.tar", "sha256": hashlib.sha256(data).hexdigest(), "photos": [],
            "bytes": len(data), "split": "train", "keys": ["a"], "offsets": [0],
            "sizes": [len(data)], "crc32": [zlib.crc32(data)],
        }
    )  # fmt: skip
    store = open_store(tmp_path)
    store.write(shard.path, data)
    Manifest({"tile": 64}, (shard,)).save(store)
    opened = open_dataset(str(tmp_path), StreamConfig())
    with pytest.raises(UserError, match=r"sample a of .* is not what jobs/shard.py writes"):
        opened.tile(opened.manifest.sample(0, 0))


def test_a_million_samples_take_little_memory() -> None:
    """Columns, not objects: 40 bytes a sample or so."""
    count = 1000
    shard = Shard.from_json(
        {
            "path": "train-000000.tar",
            "sha256": "0" * 64,
            "bytes": 2 * count,
            "split": "train",
            "photos": ["0" * 64],
            "keys": [f"0123456789abcdef-{i:04d}" for i in range(count)],
            "offsets": list(range(count)),
            "sizes": list(range(1, count + 1)),
            "crc32": list(range(count)),
        }
    )
    columns = (shard.keys, shard.offsets, shard.sizes, shard.crc32)
    assert all(isinstance(column, np.ndarray) for column in columns)
    assert sum(column.nbytes for column in columns) <= 48 * count
