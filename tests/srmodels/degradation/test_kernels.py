import math

import numpy as np
import pytest

from srmodels.degradation.draws import Draws
from srmodels.degradation.kernels import gaussian, plateau, random_kernel, sinc
from srmodels.degradation.options import Blur


@pytest.mark.parametrize(
    "kernel",
    [
        gaussian(21, 2.0, 2.0, 0.0),
        gaussian(21, 3.0, 0.7, 0.6),
        gaussian(15, 1.0, 2.0, 0.2, beta=0.5),
        plateau(21, 2.0, 1.0, 0.4, 2.0),
        sinc(13, math.pi / 2),
    ],
)
def test_kernels_keep_brightness_and_are_symmetric_about_the_centre(kernel: np.ndarray) -> None:
    assert kernel.sum() == pytest.approx(1.0)
    assert np.allclose(kernel, kernel[::-1, ::-1])


def test_sigma_is_the_gaussians_width() -> None:
    kernel = gaussian(41, 2.5, 1.5, 0.0)
    axis = np.arange(41) - 20
    assert (kernel.sum(0) * axis**2).sum() == pytest.approx(2.5**2, rel=1e-3)
    assert (kernel.sum(1) * axis**2).sum() == pytest.approx(1.5**2, rel=1e-3)


def test_angle_turns_the_long_axis_from_x_towards_y() -> None:
    kernel = gaussian(21, 3.0, 0.5, math.pi / 4)
    assert kernel[13, 13] > 100 * kernel[13, 7]


def test_shift_moves_the_centre() -> None:
    kernel = gaussian(21, 1.5, 1.5, 0.0, shift=-0.5)
    axis = np.arange(21) - 10
    assert (kernel.sum(0) * axis).sum() == pytest.approx(-0.5, abs=1e-3)
    assert (kernel.sum(1) * axis).sum() == pytest.approx(-0.5, abs=1e-3)


def test_beta_above_one_flattens_the_top_and_below_one_sharpens_it() -> None:
    def flatness(kernel: np.ndarray) -> float:
        return kernel[10, 12] / kernel[10, 10]

    ordinary = flatness(gaussian(21, 3, 3, 0))
    assert flatness(gaussian(21, 3, 3, 0, beta=0.5)) < ordinary
    assert flatness(gaussian(21, 3, 3, 0, beta=4.0)) > ordinary
    assert flatness(plateau(21, 3, 3, 0, beta=2.0)) > ordinary


def test_sinc_passes_below_its_cutoff_and_stops_above_it() -> None:
    spectrum = np.abs(np.fft.fft2(sinc(101, math.pi / 2), (128, 128)))[0]
    frequency = np.arange(65) * 2 * math.pi / 128
    assert spectrum[:65][frequency < 0.4 * math.pi].min() > 0.8
    assert spectrum[:65][frequency > 0.6 * math.pi].max() < 0.2


def draw(count: int, options: Blur) -> tuple[list[np.ndarray], list[str]]:
    drawn: list[str] = []
    draws = Draws(np.random.default_rng(0), drawn)
    return [random_kernel(options, draws) for _ in range(count)], drawn


def test_kinds_come_with_their_odds() -> None:
    kernels, drawn = draw(4000, Blur())
    share = {
        name: sum(line.startswith(f"blur {name} ") for line in drawn) / len(drawn)
        for name in ("iso", "aniso", "generalized iso", "plateau iso", "plateau aniso")
    }
    # 0.9 of each, as a tenth are sinc; three standard deviations of 4000 draws.
    assert share["iso"] == pytest.approx(0.405, abs=0.024)
    assert share["aniso"] == pytest.approx(0.225, abs=0.02)
    assert share["generalized iso"] == pytest.approx(0.108, abs=0.015)
    assert share["plateau iso"] == pytest.approx(0.108, abs=0.015)
    assert share["plateau aniso"] == pytest.approx(0.027, abs=0.008)
    sincs = sum(line.startswith("sinc") for line in drawn) / len(drawn)
    assert sincs == pytest.approx(0.1, abs=0.015)
    assert {len(kernel) for kernel in kernels} == {7, 9, 11, 13, 15, 17, 19, 21}
    assert all(kernel.sum() == pytest.approx(1.0) for kernel in kernels)


def test_isotropic_kernels_do_not_change_when_turned() -> None:
    for odds in ([1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]):
        kernels, _ = draw(20, Blur(kind_odds=odds, sinc_probability=0.0))
        assert all(np.allclose(kernel, np.rot90(kernel)) for kernel in kernels)
    kernels, _ = draw(20, Blur(kind_odds=[0, 1, 0, 0, 0, 0], sinc_probability=0.0))
    assert not any(np.allclose(kernel, np.rot90(kernel)) for kernel in kernels)


def test_small_sincs_keep_at_least_a_third_of_the_band() -> None:
    _, drawn = draw(600, Blur(sinc_probability=1.0))
    lines = [line.split() for line in drawn]
    small = [float(line[-1]) for line in lines if int(line[1]) < 13]
    large = [float(line[-1]) for line in lines if int(line[1]) >= 13]
    assert 1.0 <= min(small) < 1.2
    assert 0.6 <= min(large) < 0.8
    assert max(small + large) == 3.1
