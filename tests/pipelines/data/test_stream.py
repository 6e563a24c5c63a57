from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.config.schema import StreamConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import CropSettings, TrainingStream, make_pair, to_unit
from pipelines.errors import UserError
from srmodels.degradation import PRESETS, Draws, degrade
from tests.conftest import write_dataset

SETTINGS = CropSettings(crop=64, scale=4, degradation=PRESETS["realesrgan"]())


def batches(dataset: Path, count: int, **options: Any) -> list[Any]:
    opened = open_dataset(str(dataset), StreamConfig(window=2, lanes=2))
    stream = TrainingStream(opened, SETTINGS, **{"seed": 0, "batch_size": 4} | options)
    iterator = iter(stream)
    found = list(islice(iterator, count))
    iterator.close()  # type: ignore[attr-defined]
    return found


def same(a: Any, b: Any) -> bool:
    pixels = torch.equal(a.x_l, b.x_l) and torch.equal(a.x_h, b.x_h)
    return pixels and torch.equal(a.seeds, b.seeds) and a.keys == b.keys


def test_batches_are_lr_and_hr_crops(dataset: Path) -> None:
    (batch,) = batches(dataset, 1)
    assert batch.x_l.shape == (4, 3, 16, 16)
    assert batch.x_h.shape == (4, 3, 64, 64)
    assert batch.x_l.dtype == batch.x_h.dtype == torch.uint8
    unit = to_unit(batch.x_h, torch.device("cpu"))
    assert unit.dtype == torch.float32
    assert torch.equal((unit * 255).round().to(torch.uint8), batch.x_h)
    assert 0 <= float(unit.min()) < float(unit.max()) <= 1
    assert batch.seeds.shape == (4,)
    opened = open_dataset(str(dataset), StreamConfig())
    assert set(batch.keys) <= {s.key for s in opened.manifest.split("train")}


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_exactly_what_one_rank_would_see(dataset: Path, world_size: int) -> None:
    alone = batches(dataset, 5)
    shares = [batches(dataset, 5, rank=r, world_size=world_size) for r in range(world_size)]
    for step in range(5):
        for rank in range(world_size):
            mine = slice(rank, None, world_size)
            assert torch.equal(shares[rank][step].x_l, alone[step].x_l[mine])
            assert torch.equal(shares[rank][step].x_h, alone[step].x_h[mine])
            assert shares[rank][step].keys == alone[step].keys[mine]


def test_a_stream_that_starts_later_goes_on_where_the_other_was(dataset: Path) -> None:
    whole = batches(dataset, 6)
    rest = batches(dataset, 3, start_step=3)
    assert all(same(a, b) for a, b in zip(whole[3:], rest, strict=True))


@pytest.mark.parametrize("processes", [1, 3])
def test_loader_processes_change_nothing(dataset: Path, processes: int) -> None:
    alone = batches(dataset, 8, start_step=2)
    many = batches(dataset, 8, start_step=2, processes=processes)
    assert all(same(a, b) for a, b in zip(alone, many, strict=True))


@pytest.mark.parametrize("processes", [0, 2])
def test_damage_reaches_the_training_as_one_sentence(
    photos: Path, tmp_path: Path, processes: int
) -> None:
    manifest = write_dataset(photos, tmp_path)
    for shard in manifest.shards:
        path = tmp_path / shard.path
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match=r"^shard .* is damaged at sample \S+: [^\n]*$"):
        batches(tmp_path, 1, processes=processes)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pair_is_the_seed_s_alone_and_lr_is_made_from_that_hr(preset: str) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    settings = CropSettings(64, 4, PRESETS[preset]())
    lr, hr = make_pair(tile, settings, 7)
    again = make_pair(tile, settings, 7)
    assert np.array_equal(lr, again[0])
    assert np.array_equal(hr, again[1])
    assert not np.array_equal(hr, make_pair(tile, settings, 8)[1])
    if preset == "bicubic":
        assert np.array_equal(
            lr, degrade(hr, 4, PRESETS[preset](), Draws(np.random.default_rng(0)))
        )


def test_crops_reach_the_tile_s_last_row_and_column_and_all_eight_ways_to_lie() -> None:
    tile = np.zeros((66, 66, 3), np.uint8)
    tile[-1, :, 0] = tile[:, -1, 1] = 255
    settings = CropSettings(crop=64, scale=4, degradation=PRESETS["bicubic"]())
    crops = [make_pair(tile, settings, seed)[1] for seed in range(60)]
    assert any(crop[..., 0].any() for crop in crops)
    assert any(crop[..., 1].any() for crop in crops)
    assert any(not crop.any() for crop in crops)
    whole = CropSettings(crop=64, scale=4, degradation=PRESETS["bicubic"]())
    mark = np.arange(64 * 64 * 3, dtype=np.int64).reshape(64, 64, 3).astype(np.uint8)
    mark[0, 0] = (255, 0, 0)
    mark[0, 1] = (0, 255, 0)
    seen = {make_pair(mark, whole, seed)[1].tobytes() for seed in range(100)}
    assert len(seen) == 8
