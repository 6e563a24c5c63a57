"""Measures the speed of the data plane and of its parts. Ratios are of alternating runs."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.cluster import connect, ray_map
from pipelines.config.load import load_config
from pipelines.config.schema import ShardConfig, StreamConfig
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.images import decode_photo
from pipelines.data.manifest import Manifest, Shard
from pipelines.data.shard import make_dataset
from pipelines.data.sources import SAMPLE, find_entries
from pipelines.data.stream import CropSettings, TrainingStream, collate, make_pair, training_order
from pipelines.data.tiles import cut, decode, encode
from pipelines.storage.store import open_store
from srmodels.degradation import PRESETS, Draws, degrade
from tests.conftest import ROOT, write_dataset

ROUNDS = 5


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The sample photos as tiles of 256 px."""
    directory = tmp_path_factory.mktemp("bench")
    write_dataset("sample", directory, "shard.tile=256", "shard.val_tile=256", "shard.shard_mib=4")
    return open_dataset(str(directory), StreamConfig())


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternating(works: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, run by turns, so that a noisy neighbour hits all."""
    for work in works.values():
        work()  # tables, imports, the page cache
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(values) for name, values in times.items()}


def photo_tiles(side: int, count: int) -> list[np.ndarray]:
    """Tiles of the sample photos, evenly spread."""
    found = []
    for path in sorted(SAMPLE.glob("*.jpg")):
        image = decode_photo(path.read_bytes(), 100)
        corners = list(cut(*image.shape[:2], side))
        found += [image[y : y + side, x : x + side] for y, x in corners]
    return [np.ascontiguousarray(found[i * len(found) // count]) for i in range(count)]


def test_codecs() -> None:
    """Decode speed against size, of lossless codecs that stock readers know."""
    images = photo_tiles(256, 80)
    raw = sum(image.nbytes for image in images)

    def opencv(extension: str, *flags: int) -> Callable[[np.ndarray], bytes]:
        return lambda x: cv2.imencode(extension, x[..., ::-1], list(flags))[1].tobytes()

    def pillow(kind: str, **options: Any) -> Callable[[np.ndarray], bytes]:
        def run(x: np.ndarray) -> bytes:
            buffer = BytesIO()
            Image.fromarray(x).save(buffer, kind, **options)
            return buffer.getvalue()

        return run

    encoders = {
        "PNG, OpenCV's default": opencv(".png"),
        "PNG, level 1": opencv(".png", cv2.IMWRITE_PNG_COMPRESSION, 1),
        "PNG, level 6": opencv(".png", cv2.IMWRITE_PNG_COMPRESSION, 6),
        "PNG, Pillow level 6": pillow("PNG", compress_level=6),
        "TIFF, LZW": opencv(".tif"),
        "JPEG 2000": opencv(".jp2", cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000),
        "PPM (raw)": opencv(".ppm"),
    }
    encoders |= {f"WebP, effort {n}": lambda x, n=n: encode(x, n) for n in (0, 1, 2, 4)}
    data: dict[str, list[bytes]] = {}
    spent = {}
    for name, encoder in encoders.items():
        start = time.perf_counter()
        data[name] = [encoder(image) for image in images]
        spent[name] = time.perf_counter() - start
        assert all(np.array_equal(decode(d), x) for d, x in zip(data[name], images, strict=True))
    times = alternating({name: lambda d=d: [decode(x) for x in d] for name, d in data.items()}, 3)
    print(f"\n{'codec':<24}{'of raw size':>12}{'decoded/s':>11}{'encoded/s':>11}")
    for name, value in times.items():
        size = sum(map(len, data[name])) / raw
        print(
            f"{name:<24}{size:>12.3f}{len(images) / value:>11.0f}{len(images) / spent[name]:>11.0f}"
        )


def test_pairs_per_second(tiles: Dataset) -> None:
    """Decode + crop + degrade + collate, one thread, HR 256, x4, by preset."""
    order, shards = training_order(tiles, 0)
    draws = [order[i] for i in range(200)]
    samples = [tiles.manifest.sample(shards[draw.shard], draw.row) for draw in draws]

    def batches(settings: CropSettings) -> None:
        for start in range(0, len(samples), 8):
            pairs = [
                make_pair(tiles.tile(sample), settings, seed)
                for seed, sample in enumerate(samples[start : start + 8], start)
            ]
            collate([lr for lr, _ in pairs])
            collate([hr for _, hr in pairs])

    settings = {name: CropSettings(256, 4, make()) for name, make in PRESETS.items()}
    times = alternating({n: lambda s=s: batches(s) for n, s in settings.items()})
    print(f"\n{'preset':<20}{'pairs/s':>9}{'of bicubic':>12}")
    for name, value in times.items():
        print(f"{name:<20}{len(samples) / value:>9.0f}{times['bicubic'] / value:>12.2f}")


def test_where_the_time_goes(tiles: Dataset) -> None:
    """Milliseconds per pair of each step, one thread, HR 256, x4."""
    samples = tiles.manifest.split("train")[:200]
    encoded = [tiles.read(sample)["webp"] for sample in samples]
    images = [decode(data) for data in encoded]

    def degraded(name: str) -> Callable[[], Any]:
        options = PRESETS[name]()
        return lambda: [
            degrade(x, 4, options, Draws(np.random.Generator(np.random.Philox(key=i))))
            for i, x in enumerate(images)
        ]

    works: dict[str, Callable[[], Any]] = {
        "read and check the bytes": lambda: [tiles.read(sample) for sample in samples],
        "decode": lambda: [decode(data) for data in encoded],
        "collate": lambda: [collate(images[i : i + 8]) for i in range(0, 200, 8)],
    } | {f"degrade, {name}": degraded(name) for name in PRESETS}
    for name, value in alternating(works).items():
        print(f"\n{name:<28}{1000 * value / len(samples):>8.3f} ms", end="")
    print()


def test_reading_against_the_codec_alone(tiles: Dataset) -> None:
    samples = tiles.manifest.split("train")
    encoded = [tiles.read(sample)["webp"] for sample in samples]
    times = alternating(
        {
            "read": lambda: [tiles.tile(sample) for sample in samples],
            "codec": lambda: [decode(data) for data in encoded],
        },
        9,
    )
    print(
        f"\nreading shards: {len(samples) / times['read']:.0f} tiles/s, "
        f"{times['codec'] / times['read']:.3f} of what the codec alone allows"
    )


@pytest.mark.parametrize("preset", ["bicubic", "realesrgan"])
def test_two_loader_processes_against_one(tiles: Dataset, preset: str) -> None:
    settings = CropSettings(256, 4, PRESETS[preset]())
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for processes, found in rates.items():
            stream = TrainingStream(tiles, settings, seed=0, batch_size=8, processes=processes)
            batches = iter(stream)
            for _ in islice(batches, 40):  # until the processes have started and warmed up
                pass
            start = time.perf_counter()
            for _ in islice(batches, 150):
                pass
            found.append(150 * 8 / (time.perf_counter() - start))
            batches.close()  # type: ignore[attr-defined]
    one, two = (statistics.median(rates[n]) for n in (1, 2))
    print(
        f"\n{preset}: one process {one:.0f} pairs/s, two {two:.0f}, {two / one:.2f} times as many"
    )


def test_memory_stays_constant(tiles: Dataset) -> None:
    """Resident memory of a process that streams, after 10 and after 60 epochs."""
    import psutil

    settings = CropSettings(64, 4, PRESETS["bicubic"]())
    batches = iter(TrainingStream(tiles, settings, seed=0, batch_size=16))
    epoch = tiles.manifest.num_samples("train") // 16
    seen = []
    for epochs in (10, 50):
        for _ in islice(batches, epochs * epoch):
            pass
        seen.append(psutil.Process().memory_info().rss / 2**20)
    batches.close()  # type: ignore[attr-defined]
    print(f"\nresident after 10 epochs {seen[0]:.0f} MiB, after 60 {seen[1]:.0f} MiB")


def test_sharding_against_the_encoder(tmp_path: Path) -> None:
    """The shard job's own tasks on every core, against the encoder alone on every core."""
    import ray

    def encode_only(path: Path) -> float:
        """A task: tiles per second of the encoder alone, while the other cores do the same."""
        cv2.setNumThreads(1)
        image = decode_photo(path.read_bytes(), 100)
        tiles = [image[y : y + 256, x : x + 256] for y, x in cut(*image.shape[:2], 256)]
        start = time.perf_counter()
        for tile in tiles:
            encode(tile, ShardConfig.effort)
        return len(tiles) / (time.perf_counter() - start)

    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(SAMPLE.glob("*.jpg")):
        for turn in range(4):
            with Image.open(path) as image:
                turned = image.rotate(90 * turn, expand=True)
                turned.save(photos / f"{path.stem}-{turn}.jpg", quality=95)
    paths = sorted(photos.iterdir())
    ratios = []
    with connect():
        cores = int(ray.cluster_resources()["CPU"])
        for number in range(4):
            alone = cores * statistics.fmean(ray_map(encode_only, [(p,) for p in paths]))
            spent: list[float] = []

            def timed(function: Any, calls: Any, spent: list[float] = spent) -> Iterator[Any]:
                start = time.perf_counter()
                yield from ray_map(function, calls)
                spent.append(time.perf_counter() - start)

            output = f"output={tmp_path / str(number)}"
            sizes = ("shard.val_tile=256", "shard.shard_mib=1.5", "shard.min_contrast=0")
            config = load_config([f"source={photos}", output, *sizes])
            manifest = make_dataset(config, find_entries(config.source), timed)
            sharded = sum(map(len, manifest.shards)) / spent[-1]
            if number:  # the first warms the workers up
                ratios.append(sharded / alone)
                print(f"\nencoder alone {alone:.0f} tiles/s, sharding {sharded:.0f}", end="")
    print(f"\nsharding: {statistics.median(ratios):.2f} of the encoder's speed on {cores} cores")


def test_planning_a_million_samples(tmp_path: Path) -> None:
    """10^6 samples in 10^4 shards: loading the manifest, planning an epoch, and resuming in its
    middle, each in a fresh process."""
    shards = tuple(
        Shard.from_json(
            {
                "path": f"train-{number:06d}.tar",
                "sha256": f"{number:064x}",
                "bytes": 6_600_000,
                "split": "train",
                "photos": [f"{number:064x}"],
                "keys": [f"{number:016x}-{row:04d}" for row in range(100)],
                "offsets": [65536 * row for row in range(100)],
                "sizes": [65536] * 100,
                "crc32": [(number * 7919 + row * 104729) % 2**32 for row in range(100)],
            }
        )
        for number in range(10_000)
    )
    Manifest({}, shards).save(open_store(tmp_path))
    code = """
import time
from pipelines.data.manifest import Manifest
from pipelines.data.order import SampleOrder
from pipelines.storage.store import open_store
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
imported, start = peak(), time.perf_counter()
manifest = Manifest.load(open_store("{directory}"))
loaded, after_load = peak(), time.perf_counter()
counts = [len(shard) for shard in manifest.shards]
order = SampleOrder(manifest.digest, 0, counts, window=4, lanes=4)
order[0]
planned, resumed = time.perf_counter(), order[3_500_000]
end = time.perf_counter()
print(f"load {{after_load - start:.2f}} s, plan {{planned - after_load:.3f}} s, "
      f"resume at sample 3 500 000 {{end - planned:.3f}} s; "
      f"peak {{peak():.0f}} MiB, of which imports {{imported:.0f}} MiB")
"""
    done = subprocess.run(
        [sys.executable, "-c", code.format(directory=tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"\n{done.stdout.strip()}")
