import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from srmodels.tiling import BAND, Tiling, blend_window, run_bands, run_tiled, tile_starts


def nearest(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=4, mode="nearest")


def test_the_paper_s_512_to_2048_takes_25_evaluations() -> None:
    assert Tiling(128, 32).count(512, 512) == 25
    assert tile_starts(512, 128, 32) == [0, 96, 192, 288, 384]


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    tile=st.sampled_from([8, 16, 24]),
    overlap=st.integers(0, 7),
    batch_size=st.integers(1, 5),
)
def test_a_local_network_gives_the_same_with_and_without_tiles(
    height: int, width: int, tile: int, overlap: int, batch_size: int
) -> None:
    x = torch.rand(
        1, 3, height, width, generator=torch.Generator().manual_seed(height * 71 + width)
    )
    calls: list[int] = []
    y = run_tiled(
        nearest,
        x,
        scale=4,
        tiling=Tiling(tile, overlap),
        batch_size=batch_size,
        on_tile=calls.append,
    )
    assert y.shape == (1, 3, 4 * height, 4 * width)
    assert torch.allclose(y, nearest(x), atol=1e-5)
    assert sum(calls) == Tiling(tile, overlap).count(height, width)
    assert all(done == batch_size for done in calls[:-1])


@given(length=st.integers(1, 500), tile=st.integers(2, 64), data=st.data())
def test_tiles_cover_everything_and_share_at_least_the_overlap(
    length: int, tile: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    length = max(length, tile)
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile == length
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))


def uneven(x: torch.Tensor) -> torch.Tensor:
    """A network whose tiles do not fit together."""
    return nearest(x) * torch.linspace(0.3, 1, 4 * x.shape[3]) ** 0.37


def in_one_piece(x: torch.Tensor, tile: int, overlap: int) -> torch.Tensor:
    """The blending of all tiles at once."""
    starts = [tile_starts(side, tile, overlap) for side in x.shape[2:]]
    window = blend_window(4 * tile, 4 * overlap)
    total = torch.zeros(1, 3, 4 * x.shape[2], 4 * x.shape[3])
    weight = torch.zeros(1, 1, 4 * x.shape[2], 4 * x.shape[3])
    for top, left in itertools.product(*starts):
        at = (..., slice(4 * top, 4 * (top + tile)), slice(4 * left, 4 * (left + tile)))
        total[at] += uneven(x[:, :, top : top + tile, left : left + tile]) * window
        weight[at] += window
    return total / weight


@pytest.mark.parametrize("height", [16, 50, 97, 130])
@pytest.mark.parametrize(("overlap", "batch_size"), [(0, 1), (4, 3), (13, 7)])
def test_bands_are_bit_identical_to_the_picture_in_one_piece(
    height: int, overlap: int, batch_size: int
) -> None:
    x = torch.rand(1, 3, height, 37, generator=torch.Generator().manual_seed(height))
    whole = in_one_piece(x, 16, overlap)
    bands = list(
        run_bands(
            uneven,
            lambda top, left, bottom, right: x[:, :, top:bottom, left:right],
            (height, 37),
            scale=4,
            tiling=Tiling(16, overlap),
            batch_size=batch_size,
        )
    )
    assert torch.equal(torch.cat(bands, dim=2), whole)
    assert all(0 < band.shape[2] <= BAND for band in bands)


def test_steps_between_tiles_are_blended_away() -> None:
    """Two tiles of different brightness meet in a ramp, not in an edge."""
    levels = iter([0.0, 1.0])
    y = run_tiled(
        lambda t: torch.full((1, 3, 64, 64), next(levels)),
        torch.zeros(1, 3, 16, 28),
        scale=4,
        tiling=Tiling(16, 4),
    )
    assert y[0, 0, 0].diff().abs().max() < 0.1
    assert y[0, 0, 0, 0] == 0
    assert y[0, 0, 0, -1] == 1


def test_windows_are_positive() -> None:
    assert blend_window(16, 15).min() > 0


def test_an_overlap_as_large_as_the_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 16"):
        run_tiled(nearest, torch.zeros(1, 3, 8, 8), scale=4, tiling=Tiling(16, 16))


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    multiple=st.sampled_from([1, 4, 6]),
    tile=st.sampled_from([12, 31]),
    whole=st.sampled_from([0, 20, 48]),
)
def test_tiles_for_networks_of_any_size_are_no_larger_than_the_image_needs(
    height: int, width: int, multiple: int, tile: int, whole: int
) -> None:
    tiling = replace(Tiling.for_any_size(multiple, whole, tile), overlap=5)
    shapes = []

    def network(x: torch.Tensor) -> torch.Tensor:
        shapes.append(x.shape[2:])
        return nearest(x)

    x = torch.rand(1, 3, height, width)
    result = run_tiled(network, x, scale=4, tiling=tiling)
    torch.testing.assert_close(result, nearest(x), rtol=0, atol=1e-6)
    assert len(shapes) == tiling.count(height, width)
    for shape in shapes:
        for side, length in zip(shape, (height, width), strict=True):
            assert side % multiple == 0
            assert side <= max(tile, whole + multiple - 1)
            assert side < length + multiple
    if max(height, width) <= whole:
        assert len(shapes) == 1
    elif len(shapes) > 1:
        assert all(side <= tile for shape in shapes for side in shape)
