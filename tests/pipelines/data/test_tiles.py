from itertools import pairwise

import numpy as np
import pytest

from pipelines.data.tiles import contrast, cut, decode, encode


@pytest.mark.parametrize(("size", "overlap"), [(256, 0), (256, 64), (128, 127), (300, 0)])
def test_tiles_cover_a_photo_to_its_last_pixel_and_overlap(size: int, overlap: int) -> None:
    covered = np.zeros((300, 521), int)
    corners = list(cut(300, 521, size, overlap))
    for y, x in corners:
        assert 0 <= y <= 300 - size
        assert 0 <= x <= 521 - size
        covered[y : y + size, x : x + size] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in corners})
        gaps = [b - a for a, b in pairwise(starts)]
        assert all(gap <= size - overlap for gap in gaps)


def test_a_photo_smaller_than_a_tile_gives_none() -> None:
    assert list(cut(300, 521, 301)) == []
    assert list(cut(300, 301, 300)) == [(0, 0), (0, 1)]


@pytest.mark.parametrize("effort", [0, 1, 6])
def test_the_codec_is_lossless_and_its_bytes_are_always_the_same(effort: int) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert np.array_equal(decode(encode(tile, effort)), tile)
    assert encode(tile, effort) == encode(tile.copy(), effort)


def test_contrast_is_luma_s_standard_deviation() -> None:
    tile = np.zeros((10, 10, 3), np.uint8)
    tile[:5] = 20
    assert contrast(tile) == pytest.approx(10.0)
    assert contrast(np.full((10, 10, 3), 77, np.uint8)) == 0.0
