"""Photos of any kind are photos, noise of any kind is noise, and copies are alike."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.quality.figures import contrast, correlation, distances, luma, perceptual_hash
from pipelines.data.quality.judge import BLANK, NEAR, NOISE
from pipelines.data.set_files import EMBEDDED_FOLDER
from tests.conftest import data_directory
from tests.support.photos import (
    Pixels,
    as_jpeg,
    gradient,
    noise,
    opened,
    resized,
    sample,
    with_grain,
)

#: Foliage is in 1, 9 and 10; 0 is a smooth spiral.
NUM_SAMPLES = 13
CROPS = sorted(EMBEDDED_FOLDER.glob("*.webp"))


def is_photo(pixels: Pixels) -> bool:
    gray = luma(pixels)
    return contrast(gray) >= BLANK and correlation(gray) >= NOISE


@pytest.mark.parametrize("number", range(NUM_SAMPLES))
def test_a_photo_passes_at_any_size_and_quality(number: int) -> None:
    for factor in (1.0, 0.5, 0.2, 0.1):
        photo = sample(number, factor)
        assert is_photo(photo), factor
        for quality in (95, 50, 20, 5):
            assert is_photo(as_jpeg(photo, quality)), (factor, quality)
        for sigma in (10.0, 25.0):
            assert is_photo(with_grain(photo, sigma)), (factor, sigma)


@pytest.mark.parametrize("path", CROPS, ids=lambda path: path.stem)
def test_a_crop_with_nothing_but_texture_passes(path: Path) -> None:
    assert is_photo(opened(path))


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "gray"])
@pytest.mark.parametrize("side", [64, 256, 700])
def test_noise_is_noise_however_it_is_stored(kind: str, side: int) -> None:
    image = noise(kind, side)
    assert contrast(luma(image)) >= BLANK
    for stored in (image, *(as_jpeg(image, quality) for quality in (95, 75, 50, 30, 10))):
        assert correlation(luma(stored)) < NOISE
    for factor in (0.5, 1.5, 2, 3):
        assert correlation(luma(resized(image, factor))) < NOISE, factor


@pytest.mark.parametrize("kind", ["across", "around"])
def test_a_gradient_is_neither_blank_nor_noise(kind: str) -> None:
    assert is_photo(gradient(kind))
    assert is_photo(as_jpeg(gradient(kind), 30))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_blank_and_no_noise(level: int) -> None:
    blank = np.full((200, 300, 3), level, np.uint8)
    assert (contrast(luma(blank)), correlation(luma(blank))) == (0, 1)
    speckled = blank ^ np.random.default_rng(0).integers(0, 3, blank.shape, np.uint8)
    assert 0 < contrast(luma(speckled)) < BLANK


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (9, 7), (40, 3000)])
def test_any_shape_has_figures(shape: tuple[int, int]) -> None:
    gray = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert -1 <= correlation(gray) <= 1
    assert len(perceptual_hash(gray)) == 64


def bits(one: Pixels, other: Pixels) -> int:
    hashes = [perceptual_hash(luma(pixels)) for pixels in (one, other)]
    rows = np.frombuffer(bytes.fromhex(hashes[1]), np.uint8)[None]
    (distance,) = distances(hashes[0], rows)
    assert distance == (int(hashes[0], 16) ^ int(hashes[1], 16)).bit_count()
    return int(distance)


@pytest.mark.parametrize("number", range(NUM_SAMPLES))
def test_copies_are_alike(number: int) -> None:
    photo = sample(number)
    height, width, _ = photo.shape
    trimmed = photo[height // 100 : -height // 100, width // 100 : -width // 100]
    gray = np.repeat(luma(photo)[..., None], 3, axis=2)
    lighter = (photo * 1.1 + 5).clip(0, 255).astype(np.uint8)
    for copy in (
        resized(photo, 0.5), resized(photo, 0.13), resized(photo, 1.3), as_jpeg(photo, 30),
        as_jpeg(resized(photo, 0.25), 50), gray, lighter, trimmed,
    ):  # fmt: skip
        assert bits(photo, copy) <= NEAR


def test_different_photos_differ() -> None:
    photos = [*(sample(number, 0.25) for number in range(NUM_SAMPLES)), *map(opened, CROPS)]
    assert min(bits(one, other) for one, other in combinations(photos, 2)) > 2 * NEAR


@pytest.mark.slow
def test_hundreds_of_photos_pass_and_differ() -> None:
    """With the figures that the page tells."""
    data = data_directory()
    paths = [*data.glob("photos/*/*.jpg"), *data.glob("benchmarks/*/*/*_HR.png")]
    assert len(paths) > 200
    photos = [luma(opened(path)) for path in paths]
    assert min(contrast(photo) for photo in photos) > 4 * BLANK
    correlations = [correlation(photo) for photo in photos]
    print(f"{len(paths)} photos: correlation {min(correlations):.3f} and more")
    assert min(correlations) > 1.8 * NOISE
    hashes = [perceptual_hash(photo) for photo in photos]
    rows = np.array([np.frombuffer(bytes.fromhex(found), np.uint8) for found in hashes])
    nearest = [distances(found, rows[:n]).min() for n, found in enumerate(hashes) if n]
    print(f"different photos differ in {min(nearest)} bits and more")
    assert min(nearest) > 2 * NEAR
