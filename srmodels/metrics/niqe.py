"""NIQE: how far an image's local statistics are from those of undistorted photographs."""

import warnings
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve
from scipy.special import gamma

from srmodels.degradation.resize import bicubic_floats
from srmodels.metrics.fidelity import NoScoreError, Pixels, to_y
from srmodels.weights import pretrained

Floats = NDArray[np.float64]
#: Side of the blocks that have features, in pixels of the image; half as much at half its size.
BLOCK = 96

# Shapes α of a generalised Gaussian, and E|x|² / E x² of each.
_ALPHAS = np.arange(200, 10001) / 1000
_RATIOS = gamma(2 / _ALPHAS) ** 2 / (gamma(1 / _ALPHAS) * gamma(3 / _ALPHAS))


class NIQE:
    """Natural image quality evaluator, Mittal et al., "Making a 'completely blind' image quality
    analyzer", 2013. The lower the more natural; photographs are at 2 to 5.

    Raises:
        ValueError: the statistics of pristine photographs are not at hand, see `pretrained`.
    """

    def __init__(self) -> None:
        pristine = {name: value.numpy() for name, value in pretrained("niqe_pristine").items()}
        if missing := {"mu_pris_param", "cov_pris_param", "gaussian_window"} - pristine.keys():
            raise ValueError(f"niqe_pristine.npz holds no {min(missing)}: get it again.")
        self.mean = pristine["mu_pris_param"].ravel()
        self.covariance = pristine["cov_pris_param"]
        self.window = pristine["gaussian_window"]

    def __call__(self, rgb: Pixels) -> float:
        """Returns the score of an image `[H, W, 3]` uint8, by its luma, of which whole blocks
        count.

        Raises:
            NoScoreError: the image holds fewer than two blocks of 96 px that are not flat.
        """
        y = to_y(rgb)
        rows, columns = (side // BLOCK for side in y.shape)
        if rows * columns < 2:
            raise NoScoreError(
                f"an image of {rgb.shape[1]}x{rgb.shape[0]} px is too small for NIQE, which needs "
                f"two blocks of {BLOCK} px."
            )
        y = y[: rows * BLOCK, : columns * BLOCK]
        features = [self._features(y, BLOCK), self._features(bicubic_floats(y, 2), BLOCK // 2)]
        found = np.concatenate(features, axis=1)
        whole = found[~np.isnan(found).any(axis=1)]
        if len(whole) < 2:
            raise NoScoreError("the image is flat: NIQE finds no statistics in it.")
        mean, covariance = np.nanmean(found, axis=0), np.cov(whole, rowvar=False)
        apart = self.mean - mean
        inverse = np.linalg.pinv((self.covariance + covariance) / 2)
        return float(np.sqrt(apart @ inverse @ apart))

    def _features(self, y: Floats, block: int) -> Floats:
        """Returns `[blocks, 18]` numbers of the luma, normalised by its neighbourhood, in each
        block."""
        mean = convolve(y, self.window, mode="nearest")
        variance = convolve(y**2, self.window, mode="nearest") - mean**2
        normalised = (y - mean) / (np.sqrt(np.abs(variance)) + 1)
        rows, columns = (side // block for side in y.shape)
        blocks = normalised.reshape(rows, block, columns, block).swapaxes(1, 2)
        places = product(range(rows), range(columns))
        return np.array([list(_block_features(blocks[place])) for place in places])


def _block_features(block: Floats) -> Iterator[float]:
    """Returns shape and mean scale of the values; of their products with each of four neighbours,
    shape, mean, and left and right scale."""
    alpha, left, right = _asymmetric_gaussian(block)
    yield from (alpha, (left + right) / 2)
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        alpha, left, right = _asymmetric_gaussian(block * np.roll(block, shift, axis=(0, 1)))
        yield from (alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right)


def _asymmetric_gaussian(values: Floats) -> tuple[float, float, float]:
    """Returns α, β_l and β_r of the asymmetric generalised Gaussian with the values' moments."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of flat blocks, whose features are no numbers
        return _moments(values)


def _moments(values: Floats) -> tuple[float, float, float]:
    left = np.sqrt(np.mean(values[values < 0] ** 2))
    right = np.sqrt(np.mean(values[values > 0] ** 2))
    skew = left / right
    ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    alpha = float(_ALPHAS[np.argmin((_RATIOS - ratio) ** 2)])
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, float(left * scale), float(right * scale)
