import numpy as np
import pytest

from srmodels.degradation import noise


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=7))


@pytest.mark.parametrize("sigma", [1.0, 7.3, 30.0])
def test_gaussian_noise_has_its_mean_variance_and_tails(
    generator: np.random.Generator, sigma: float
) -> None:
    levels = noise.gaussian((600, 500), sigma, generator).astype(float)
    error = sigma / np.sqrt(levels.size)
    assert levels.mean() == pytest.approx(0.0, abs=4 * error)
    # Rounding to whole levels adds 1/12.
    assert levels.var() == pytest.approx(sigma**2 + 1 / 12, rel=0.015)
    assert (np.abs(levels) > 2 * sigma + 0.5).mean() == pytest.approx(
        (
            np.abs(np.rint(np.random.default_rng(0).normal(0, sigma, 10**6))) > 2 * sigma + 0.5
        ).mean(),
        rel=0.05,
    )
    assert np.abs(levels).max() > 3.9 * sigma


def test_gaussian_noise_is_independent_between_neighbours_and_channels(
    generator: np.random.Generator,
) -> None:
    levels = noise.gaussian((200, 200, 3), 20.0, generator).astype(float)
    for a, b in [
        (levels[:, 1:], levels[:, :-1]),
        (levels[1:], levels[:-1]),
        (levels[..., 0], levels[..., 1]),
    ]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def flat(value: int) -> np.ndarray:
    """A picture of one value next to all values, so that 256 distinct ones are counted."""
    image = np.full((300, 300, 3), value, np.uint8)
    image[0, :256] = np.arange(256, dtype=np.uint8)[:, None]
    return image


@pytest.mark.parametrize("value", [0, 1, 5, 20, 100, 254])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_poisson_noise_has_mean_zero_and_the_signals_variance(
    generator: np.random.Generator, value: int, scale: float
) -> None:
    levels = noise.poisson(flat(value), scale, False, generator)[1:].astype(float)
    # The signal is value / 255 · 256 photons, each worth 255 / 256 levels.
    photons = np.random.default_rng(0).poisson(value / 255 * 256, 2_000_000)
    expected = np.rint(scale * (photons / 256 * 255 - value))
    error = 5 * expected.std() / np.sqrt(levels.size)
    # Rounding to whole levels shifts the mean of coarse counts.
    assert levels.mean() == pytest.approx(expected.mean(), abs=0.005 + error)
    assert levels.mean() == pytest.approx(0.0, abs=0.3 + error)
    assert levels.var() == pytest.approx(expected.var(), rel=0.02)
    if scale == 3.0:
        assert levels.var() == pytest.approx(value * 255 / 256 * 9 + 1 / 12 * (value > 0), rel=0.03)


def test_poisson_noise_is_skewed_as_counts_are(generator: np.random.Generator) -> None:
    levels = noise.poisson(flat(5), 3.0, False, generator)[1:].astype(float)
    mean = 5 / 255 * 256
    skewness = (levels**3).mean() / levels.var() ** 1.5
    assert skewness == pytest.approx(1 / np.sqrt(mean), rel=0.1)
    # No photon at all, times the scale.
    assert levels.min() == round(-3.0 * 5)
    assert (levels == levels.min()).mean() == pytest.approx(np.exp(-mean), rel=0.2)


def test_few_distinct_values_make_strong_shot_noise(generator: np.random.Generator) -> None:
    image = np.full((200, 200, 3), 100, np.uint8)
    image[:50] = 50
    levels = noise.poisson(image, 1.0, False, generator)[50:].astype(float)
    # Two values: 2 photons at white, each worth 127.5 levels.
    assert levels.var() == pytest.approx(100 * 127.5, rel=0.03)
    assert levels.mean() == pytest.approx(0.0, abs=1.5)


def test_gray_noise_is_one_plane_for_all_channels(generator: np.random.Generator) -> None:
    image = np.full((64, 48, 3), 120, np.uint8)
    image[0, :40] = np.arange(100, 140, dtype=np.uint8)[:, None]
    for levels in (
        noise.gaussian((64, 48), 12.0, generator),
        noise.poisson(image, 1.0, True, generator),
    ):
        assert levels.shape == (64, 48)
        assert levels.std() > 1
        difference = noise.add(image, levels).astype(int) - image
        assert (difference == levels[..., None]).all()


def test_correlated_noise_mixes_channels_but_not_pixels(generator: np.random.Generator) -> None:
    variances, correlations = [], []
    for _ in range(60):
        levels = noise.correlated((100, 100, 3), 20.0, generator).astype(float)
        covariance = np.cov(levels.reshape(-1, 3).T)
        eigenvalues = np.linalg.eigvalsh(covariance)
        assert eigenvalues.min() > -1
        assert eigenvalues.max() < 1.08 * 20.0**2
        variances.append(np.trace(covariance) / 3)
        correlations.append(abs(np.corrcoef(levels.reshape(-1, 3).T)[0, 1]))
        assert abs(np.corrcoef(levels[1:].ravel(), levels[:-1].ravel())[0, 1]) < 0.03
    # d is uniform in 0–1, so half of sigma² on average.
    assert np.mean(variances) == pytest.approx(200.0, rel=0.15)
    assert 0.1 < np.mean(correlations) < 0.6


def test_adding_noise_clips(generator: np.random.Generator) -> None:
    image = np.array([[[0, 128, 255]]], np.uint8)
    assert noise.add(image, np.full((1, 1), 200, np.int16)).ravel().tolist() == [200, 255, 255]
    assert noise.add(image, np.full((1, 1, 3), -200, np.int16)).ravel().tolist() == [0, 0, 55]


def test_noise_comes_from_the_generator_alone() -> None:
    def draw(key: int) -> np.ndarray:
        return noise.gaussian((8, 9), 9.0, np.random.Generator(np.random.Philox(key=key)))

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
