"""Measures the cost of one sample and of one checkpoint, for the larger machines of
docs/scaling.md.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from time import process_time

import cv2
import pytest

from pipelines.config.schema import StreamConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import Manifest
from pipelines.data.sources import SAMPLE
from pipelines.data.stream import CropSettings, collate, make_pair
from pipelines.models.build import stage_on_meta
from pipelines.training.cost import training_cost
from pipelines.training.footprint import checkpoint_bytes, parameter_counts
from srmodels.degradation import PRESETS
from tests.benchmarks.bench_training_cuda import CROP, full_size
from tests.conftest import write_dataset

ROUNDS, BATCH = 5, 8


def test_costs_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, CPU time and FLOPs per training sample; bytes per checkpoint."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(SAMPLE.glob("*.jpg"))[:6]:
        (photos / path.name).symlink_to(path)
    small, large = tmp_path / "256", tmp_path / "512"
    few = write_dataset("sample", small, "shard.tile=256", "shard.val_tile=256")
    many = write_dataset(photos, large, f"shard.tile={CROP}", f"shard.val_tile={CROP}")
    seconds = preparation(large)
    config = full_size("train.batch_size=8")
    total, trained = parameter_counts(stage_on_meta(config, "joint"))
    flops = training_cost(config, "joint").flops
    recomputing = full_size("train.batch_size=8", "train.activation_checkpointing=true")
    rows = {
        "shards per sample, tile 256": told_size(few, 256),
        f"shards per sample, tile {CROP}": told_size(many, CROP),
        **{
            f"CPU per sample, crop {CROP}, {name}": f"{1e3 * value:.2f} ms"
            for name, value in seconds.items()
        },
        "full size, parameters": f"{total / 1e6:.1f} M, {trained / 1e6:.1f} M trained (joint)",
        **{
            f"full size, one checkpoint, ZeRO {stage}": (
                f"{checkpoint_bytes(total, trained, zero_stage=stage) / 1e9:.2f} GB"
            )
            for stage in (0, 2)
        },
        f"full size, joint, crop {CROP}": f"{flops / 1e9:.0f} GFLOPs per sample",
        "  activations recomputed": (
            f"{training_cost(recomputing, 'joint').flops / 1e9:.0f} GFLOPs per sample"
        ),
    }
    print()
    for name, value in rows.items():
        print(f"{name:<44}{value}")


def told_size(manifest: Manifest, tile: int) -> str:
    """A training sample's share of its shard."""
    sizes = [sample.size for sample in manifest.split("train")]
    mean = statistics.fmean(sizes)
    return f"{mean / 1e3:.1f} kB, {mean / (3 * tile**2):.3f} of raw ({len(sizes)} tiles)"


def preparation(directory: Path) -> dict[str, float]:
    """CPU seconds to read, decode, crop, degrade and collate a sample, one thread, by turns."""
    cv2.setNumThreads(1)
    dataset = open_dataset(str(directory), StreamConfig())
    samples = dataset.manifest.split("train")

    def prepare(settings: CropSettings) -> Callable[[], None]:
        def run() -> None:
            for start in range(0, len(samples), BATCH):
                pairs = [
                    make_pair(dataset.tile(sample), settings, seed)
                    for seed, sample in enumerate(samples[start : start + BATCH], start)
                ]
                collate([lr for lr, _ in pairs])
                collate([hr for _, hr in pairs])

        return run

    works = {
        name: prepare(CropSettings(CROP, 4, PRESETS[name]())) for name in ("bicubic", "realesrgan")
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            start = process_time()
            work()
            if number:  # the first fills tables and the page cache
                times[name].append((process_time() - start) / len(samples))
    return {name: statistics.median(values) for name, values in times.items()}
