import math

import numpy as np
import pytest

from srmodels.degradation.kernels import gaussian, plateau, random_kernel, sinc


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


def test_drawn_kernels_have_odd_sizes_from_7_to_21() -> None:
    generator = np.random.default_rng(0)
    sizes = {
        random_kernel(
            generator,
            sigma=(0.2, 3.0),
            odds=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
            sinc_probability=0.1,
            beta_generalized=(0.5, 4.0),
            beta_plateau=(0.5, 2.0),
        ).shape[0]
        for _ in range(300)
    }
    assert sizes == {7, 9, 11, 13, 15, 17, 19, 21}
