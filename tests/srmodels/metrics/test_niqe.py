"""NIQE with the published statistics, against values of the reference implementation."""

import numpy as np
import pytest
from PIL import Image

from srmodels.metrics import NoScoreError
from srmodels.metrics.niqe import NIQE
from tests.conftest import data_directory, needs_weights


@pytest.fixture
def niqe() -> NIQE:
    needs_weights()
    return NIQE()


def test_it_is_the_reference_implementation_s(niqe: NIQE) -> None:
    """BSD100's first image, and its LR with each pixel repeated 4 x 4 times; on Y, no border."""
    folder = data_directory() / "benchmarks" / "BSD100" / "image_SRF_4"
    hr, lr = (
        np.asarray(Image.open(folder / f"img_001_SRF_4_{kind}.png").convert("RGB"))
        for kind in ("HR", "LR")
    )
    assert niqe(hr) == pytest.approx(2.776, abs=5e-4)
    assert niqe(lr.repeat(4, axis=0).repeat(4, axis=1)) == pytest.approx(10.789, abs=5e-4)


def test_rows_and_columns_that_fill_no_block_do_not_count(niqe: NIQE) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 192, 3), np.uint8)
    more = np.pad(image, ((0, 95), (0, 20), (0, 0)))
    assert niqe(more) == niqe(image)


def test_an_image_that_is_too_small_is_refused(niqe: NIQE) -> None:
    with pytest.raises(NoScoreError, match=r"150x120 px is too small for NIQE"):
        niqe(np.zeros((120, 150, 3), np.uint8))


def test_a_flat_image_has_no_score(niqe: NIQE) -> None:
    flat = np.full((200, 200, 3), 255, np.uint8)
    with pytest.raises(NoScoreError, match="the image is flat"):
        niqe(flat)
    flat[20:60, 20:60] = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    with pytest.raises(NoScoreError, match="the image is flat"):
        niqe(flat)
