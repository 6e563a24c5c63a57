"""The data plane on a real S3 server: sharding into it, streaming from it, whatever it does."""

import time
from contextlib import suppress
from itertools import islice, starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.schema import ShardConfig, StreamConfig
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.inspect import inspect
from pipelines.data.manifest import Manifest
from pipelines.data.sources import Entry
from pipelines.data.stream import Batch, CropSettings, TrainingStream
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.storage.store import open_store
from srmodels.degradation import PRESETS
from tests.conftest import ROOT, SMALL, Runner, write_dataset
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.s3_server import S3Server

SETTINGS = CropSettings(crop=64, scale=4, degradation=PRESETS["bicubic"]())


def settings(cache: Path, **options: Any) -> StreamConfig:
    defaults = {"cache": str(cache), "window": 1, "lanes": 2, "cache_mib": 64}
    return StreamConfig(**defaults | {"retry_seconds": 30.0, "timeout_seconds": 2.0} | options)


def stream(dataset: Dataset, **options: Any) -> TrainingStream:
    return TrainingStream(dataset, SETTINGS, **{"seed": 0, "batch_size": 4} | options)


def take(dataset: Dataset, count: int, **options: Any) -> list[Batch]:
    batches = iter(stream(dataset, **options))
    try:
        return list(islice(batches, count))
    finally:
        batches.close()  # type: ignore[attr-defined]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        torch.equal(a.x_l, b.x_l) and torch.equal(a.x_h, b.x_h) and a.keys == b.keys
        for a, b in zip(one, other, strict=True)
    )


def upload(directory: Path, url: str) -> None:
    source, target = open_store(directory), open_store(url)
    for name in source.names():
        if name != ".lock":
            target.write(name, source.read(name))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 72 shards, 35 MiB: ten times the cache that the test gives it."""
    photos = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    for number in range(282):
        pixels = generator.integers(0, 256, (192, 192, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png", compress_level=0)
    directory = tmp_path_factory.mktemp("large")
    tiles = ("shard.tile=64", "shard.val_tile=64", "shard.effort=0", "train.crop=64")
    sizes = ("shard.val_fraction=0.0001", "shard.shard_mib=0.14", "shard.quality=false")
    write_dataset(photos, directory, *tiles, *sizes)
    return directory


def test_a_dataset_in_a_bucket_is_the_same_as_in_a_folder(
    photos: Path, dataset: Path, s3_url: str
) -> None:
    manifest = write_dataset(photos, s3_url)
    assert manifest.digest == Manifest.load(open_store(dataset)).digest
    store, local = open_store(s3_url), open_store(dataset)
    names = [name for name in local.names() if name != ".lock"]
    assert store.names() == names
    assert all(store.read(name) == local.read(name) for name in names)


def test_photos_in_a_bucket_are_a_source(photos: Path, dataset: Path, s3_url: str) -> None:
    upload(photos, f"{s3_url}/my photos")
    manifest = write_dataset(f"{s3_url}/my photos", f"{s3_url}/shards")
    assert manifest.digest == Manifest.load(open_store(dataset)).digest


@pytest.mark.parametrize("processes", [0, 2])
def test_a_bucket_streams_the_same_as_a_folder(
    dataset: Path, s3_url: str, tmp_path: Path, processes: int
) -> None:
    upload(dataset, s3_url)
    local = take(open_dataset(str(dataset), settings(tmp_path)), 10)
    remote = open_dataset(s3_url, settings(tmp_path / "cache"))
    assert same(take(remote, 10, processes=processes), local)


def test_faults_delay_training_and_change_nothing(
    dataset: Path, s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    upload(dataset, s3_url)
    expected = take(open_dataset(str(dataset), settings(tmp_path)), 12)
    faults = [Fault(kind) for kind in ("drop", "slow_down", "lost")]
    faults += [Fault("truncate", at=5000, method="GET"), Fault("flip", at=3000, method="GET")]
    for seed in range(3):
        s3_proxy.chance(0.0)
        remote = open_dataset(s3_url, settings(tmp_path / f"cache{seed}"))
        s3_proxy.seen.clear()
        s3_proxy.plan(*faults[seed:], *faults[:seed])
        s3_proxy.chance(0.3, *faults, seed=seed)
        assert same(take(remote, 12), expected)
        assert {seen.fault for seen in s3_proxy.seen if seen.fault} == {f.kind for f in faults}


@pytest.mark.parametrize("processes", [0, 1])
def test_a_store_that_fails_for_longer_than_the_budget_ends_training_in_one_sentence(
    dataset: Path, s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path, processes: int
) -> None:
    upload(dataset, s3_url)
    remote = open_dataset(s3_url, settings(tmp_path / "cache", retry_seconds=1.0))
    s3_proxy.chance(1.0, Fault("slow_down"))
    with pytest.raises(UserError, match=r"^could not [^\n]*start again\.$"):
        take(remote, 1, processes=processes)


@pytest.mark.parametrize(
    ("ranks", "processes"),
    [(2, 0), *(pytest.param(1, n, marks=pytest.mark.slow) for n in (0, 2))],
)
def test_a_set_ten_times_the_cache_is_fetched_once_an_epoch(
    large: Path, s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path, ranks: int, processes: int
) -> None:
    """Bytes that left the server, per byte of samples trained, over two epochs."""
    upload(large, s3_url)
    cache = tmp_path / "cache"
    config = settings(cache, cache_mib=3, window=2, lanes=1)
    datasets = [open_dataset(s3_url, config) for _ in range(ranks)]
    manifest = datasets[0].manifest
    total = sum(shard.bytes for shard in manifest.shards if shard.split == "train")
    assert total >= 9.5 * 2**20 * config.cache_mib
    del s3_proxy.seen[:]
    batch = 4
    steps = 2 * manifest.num_samples("train") // batch
    streams = [
        iter(stream(d, batch_size=batch, rank=r, world_size=ranks, processes=processes))
        for r, d in enumerate(datasets)
    ]
    used = 0
    sizes = {s.key: s.size for s in manifest.split("train")}
    largest = 0
    for _ in range(steps):
        used += sum(sizes[key] for batches in streams for key in next(batches).keys)
        largest = max(largest, disk_usage(cache))
    for batches in streams:
        batches.close()  # type: ignore[attr-defined]
    fetched = sum(seen.sent for seen in s3_proxy.seen if ".tar" in seen.path)
    print(f"{ranks} ranks, {processes} processes: {fetched / used:.4f} bytes fetched per byte used")
    assert fetched <= 1.05 * used
    # A shard or two more: files come and go while they are counted.
    assert 0 < largest <= (3 + 1) * 2**20


def disk_usage(folder: Path) -> int:
    """Bytes on disk, of whatever does not vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512 if path.is_file() else 0
    return total


def test_a_cache_that_is_too_small_for_the_window_is_refused(
    large: Path, s3_url: str, tmp_path: Path
) -> None:
    upload(large, s3_url)
    remote = open_dataset(s3_url, settings(tmp_path, cache_mib=2, window=2, lanes=2))
    with pytest.raises(UserError, match=r"stream.cache_mib=2 is too small .*: set at least \d"):
        take(remote, 1)


def test_the_next_block_arrives_before_it_is_needed(
    large: Path, s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    upload(large, s3_url)
    remote = open_dataset(s3_url, settings(tmp_path / "cache", window=2, lanes=1))
    batches = iter(stream(remote, batch_size=2))
    next(batches)
    first, second = list(islice(stream(remote).order.blocks(0), 2))
    shards = [remote.manifest.shards[stream(remote).shards[s]] for s in second.shards]
    assert not set(first.shards) & set(second.shards)
    for _ in range(100):
        if all((tmp_path / "cache" / f"{shard.sha256}.tar").exists() for shard in shards):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the second block was not fetched ahead")
    batches.close()  # type: ignore[attr-defined]


def test_a_rank_fetches_ahead_for_its_own_lanes_only(
    large: Path, s3_url: str, tmp_path: Path
) -> None:
    upload(large, s3_url)
    remote = open_dataset(s3_url, settings(tmp_path / "cache", window=2, lanes=4))
    batches = iter(stream(remote, batch_size=8, rank=1, world_size=4))
    next(batches)
    time.sleep(1.5)
    batches.close()  # type: ignore[attr-defined]
    assert remote.cache is not None
    # The present block of its lane and the next one; the border of the lane may add a shard.
    assert 2 <= remote.cache.fetches <= 2 * 2 + 2
    # What the rank tells Prometheus and MLflow.
    counts = remote.counts()
    assert counts["fetches"] == remote.cache.fetches
    assert counts["fetched_bytes"] == remote.cache.fetched_bytes > 0
    assert counts["cache_hits"] == 0
    before = counts["fetches"]
    for shard in (0, 0, 1):
        remote.fetch(shard)
    counts = remote.counts()
    # Whatever reads samples of a shard meanwhile, a shard counts once for each time that it is due.
    assert counts["cache_hits"] + counts["fetches"] - before == 3
    assert counts["cache_hits"] >= 1


def test_photos_under_odd_keys_are_skipped_with_a_reason() -> None:
    for name in ("a//b.png", "./b.png", "a/../b.png"):
        found = inspect([Entry("file", "s3://bucket/x", name, 9)], ShardConfig(), starmap)
        assert [s.reason for s in found.skipped] == ["a name that cannot be addressed"]


def test_evaluation_plans_on_a_bucket() -> None:
    config = load_config([f"recipe={SMALL}", "data=s3://bucket/set", "model=run:x"])
    assert "validation split of s3://bucket/set" in evaluate.plan(config)


@pytest.mark.slow
def test_jobs_shard_into_a_bucket_and_train_from_it(
    photos: Path, s3_url: str, s3_server: S3Server, run_forked: Runner, tmp_path: Path
) -> None:
    upload(photos, f"{s3_url}/photos")
    home = {"SRMILL_HOME": str(tmp_path), "RAY_ADDRESS": "local"}
    keys = [f"recipe={SMALL}", f"data={s3_url}/shards", "shard.shard_mib=0.1"]
    made = run_forked("jobs/shard.py", *keys, f"source={s3_url}/photos", **home)
    assert made.returncode == 0, made.stdout + made.stderr
    checked = run_forked("jobs/shard.py", *keys, "verify=true", **home)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "All is well" in checked.stdout
    trained = run_forked(
        "jobs/train.py", *keys, "stage=autoencoder", "train.workers=0", "stream.lanes=1", **home
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "Trained small-autoencoder" in trained.stdout
    for said in (made, checked, trained):
        assert s3_server.environment["AWS_SECRET_ACCESS_KEY"] not in said.stdout + said.stderr
    assert not (ROOT / "s3:").exists()
