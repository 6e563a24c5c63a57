import random

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.sources import SAMPLE
from srmodels.degradation import PRESETS, degrade


@pytest.fixture(scope="module")
def hr() -> np.ndarray:
    with Image.open(SAMPLE / "krank_level-11.jpg") as image:
        return np.asarray(image.convert("RGB"))[300:428, 300:460].copy()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [2, 4])
def test_lr_has_the_right_size_and_is_a_picture_of_hr(
    hr: np.ndarray, preset: str, scale: int
) -> None:
    for seed in range(12):
        lr = degrade(hr, scale, preset, np.random.default_rng(seed))
        assert lr.shape == (128 // scale, 160 // scale, 3)
        assert lr.dtype == np.uint8
        assert abs(float(lr.mean()) - float(hr.mean())) < 20


@pytest.mark.parametrize("preset", PRESETS)
def test_only_the_generator_decides(hr: np.ndarray, preset: str) -> None:
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = degrade(hr, 4, preset, np.random.default_rng(3))
    second = degrade(hr, 4, preset, np.random.default_rng(3))
    assert np.array_equal(first, second)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    if preset != "bicubic":
        assert not np.array_equal(first, degrade(hr, 4, preset, np.random.default_rng(4)))


def test_bad_input_is_refused(hr: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="use one of bicubic, realesrgan"):
        degrade(hr, 4, "fog", generator)
    with pytest.raises(ValueError, match="cannot be reduced by 4"):
        degrade(hr[:127], 4, "bicubic", generator)
