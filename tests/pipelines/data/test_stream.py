from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data.manifest import Manifest
from pipelines.data.stream import CropSettings, TrainingStream, make_pair
from srmodels.degradation import PRESETS, degrade

SETTINGS = CropSettings(crop=64, scale=4, degradation="bicubic")


def batches(dataset: Path, count: int, **options: Any) -> list[Any]:
    stream = TrainingStream(
        dataset, Manifest.load(dataset), SETTINGS, **{"seed": 0, "batch_size": 4} | options
    )
    return list(islice(iter(stream), count))


def test_batches_are_lr_and_hr_crops_in_the_unit_range(dataset: Path) -> None:
    (batch,) = batches(dataset, 1)
    assert batch.x_l.shape == (4, 3, 16, 16)
    assert batch.x_h.shape == (4, 3, 64, 64)
    assert batch.x_h.dtype == torch.float32
    assert 0 <= float(batch.x_h.min()) < float(batch.x_h.max()) <= 1
    assert batch.seeds.shape == (4,)
    train = {s.key for s in Manifest.load(dataset).split("train")}
    assert set(batch.keys) <= train


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
    rest = batches(dataset, 3, start_step=3, threads=3)
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a.x_l, b.x_l)
        assert torch.equal(a.seeds, b.seeds)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pair_is_the_seed_s_alone_and_lr_is_made_from_that_hr(preset: str) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    settings = CropSettings(64, 4, preset)
    lr, hr = make_pair(tile, settings, 7)
    again = make_pair(tile, settings, 7)
    assert np.array_equal(lr, again[0])
    assert np.array_equal(hr, again[1])
    assert not np.array_equal(hr, make_pair(tile, settings, 8)[1])
    if preset == "bicubic":
        assert np.array_equal(lr, degrade(hr, 4, preset, np.random.default_rng(0)))


def test_crops_reach_the_tile_s_last_row_and_column() -> None:
    tile = np.zeros((66, 66, 3), np.uint8)
    tile[-1, :, 0] = tile[:, -1, 1] = 255
    crops = [make_pair(tile, SETTINGS, seed)[1] for seed in range(60)]
    assert any(crop[..., 0].any() for crop in crops)
    assert any(crop[..., 1].any() for crop in crops)
    assert any(not crop.any() for crop in crops)
