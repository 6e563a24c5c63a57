import numpy as np
import pytest

from srmodels.degradation.codecs import compress
from srmodels.degradation.draws import Draws


@pytest.fixture
def image() -> np.ndarray:
    image = np.random.default_rng(0).integers(90, 160, (48, 64, 3), dtype=np.uint8)
    image[:, 32:, 0] = 10
    return image


def test_quality_is_drawn_from_its_whole_range(image: np.ndarray) -> None:
    drawn: list[str] = []
    draws = Draws(np.random.default_rng(0), drawn)
    for _ in range(400):
        compress(image, [30.0, 40.0], 0.0, draws)
    levels = [int(line.removeprefix("JPEG ")) for line in drawn]
    assert set(levels) == set(range(30, 41))
    assert np.mean(levels) == pytest.approx(35.0, abs=0.5)


@pytest.mark.parametrize("webp", [0.0, 1.0])
def test_lower_quality_loses_more_and_colours_stay_in_place(image: np.ndarray, webp: float) -> None:
    def loss(quality: float) -> float:
        found = compress(image, [quality, quality], webp, Draws(np.random.default_rng(0)))
        assert found.shape == image.shape
        assert found[:, 40:, 0].mean() < 30
        assert found[:, :24, 0].mean() > 90
        return float(np.abs(found.astype(int) - image).mean())

    assert loss(10) > loss(50) > loss(95) > 0


def test_webp_has_its_share(image: np.ndarray) -> None:
    drawn: list[str] = []
    draws = Draws(np.random.default_rng(0), drawn)
    for _ in range(300):
        compress(image, [50.0, 90.0], 0.3, draws)
    share = sum(line.startswith("WebP") for line in drawn) / 300
    assert share == pytest.approx(0.3, abs=0.08)
    assert all(line.startswith(("WebP ", "JPEG ")) for line in drawn)
