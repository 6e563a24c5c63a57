import random
import re
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.sources import SAMPLE
from srmodels.degradation import PRESETS, Bsrgan, Draws, SecondOrder, degrade
from srmodels.degradation.draws import words


@pytest.fixture(scope="module")
def hr() -> np.ndarray:
    with Image.open(SAMPLE / "krank_level-11.jpg") as image:
        return np.asarray(image.convert("RGB"))[300:396, 300:444].copy()


def philox(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key))


def draws(key: int, log: list[str] | None = None) -> Draws:
    return Draws(philox(key), log)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_lr_has_the_right_size_and_is_a_picture_of_hr(
    hr: np.ndarray, preset: str, scale: int
) -> None:
    small = cv2.resize(hr, (144 // scale, 96 // scale), interpolation=cv2.INTER_AREA)
    likeness = []
    for key in range(12):
        given = hr.copy()
        lr = degrade(given, scale, PRESETS[preset](), draws(key))
        assert lr.shape == (96 // scale, 144 // scale, 3)
        assert lr.dtype == np.uint8
        assert np.array_equal(given, hr)
        assert abs(float(lr.mean()) - float(hr.mean())) < 20
        likeness.append(np.corrcoef(lr.ravel(), small.ravel())[0, 1])
    assert np.median(likeness) > 0.6


@pytest.mark.parametrize("preset", PRESETS)
def test_colours_stay_in_their_channels(preset: str) -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[...] = (200, 120, 40)
    found = [degrade(image, 4, PRESETS[preset](), draws(key)).mean((0, 1)) for key in range(20)]
    assert np.mean(found, axis=0) == pytest.approx([200, 120, 40], abs=25)


@pytest.mark.parametrize("preset", PRESETS)
def test_lr_lies_where_hr_lies(preset: str) -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[32:64, 24:56] = 255
    mean = np.zeros((24, 24))
    for key in range(80):
        mean += degrade(image, 4, PRESETS[preset](), draws(key)).mean(2)
    mean = np.clip(mean / 80 - 60, 0, None)
    y = (mean.sum(1) * (np.arange(24) + 0.5)).sum() / mean.sum()
    x = (mean.sum(0) * (np.arange(24) + 0.5)).sum() / mean.sum()
    assert (y, x) == pytest.approx((12.0, 10.0), abs=0.08)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("size", "scale"), [((16, 16), 8), ((16, 24), 4), ((17, 31), 1)])
def test_the_smallest_crops_work(preset: str, size: tuple[int, int], scale: int) -> None:
    image = philox(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for key in range(40):
        lr = degrade(image, scale, PRESETS[preset](), draws(key))
        assert lr.shape == (size[0] // scale, size[1] // scale, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_only_the_generator_decides(hr: np.ndarray, preset: str) -> None:
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    threads = cv2.getNumThreads()
    options = PRESETS[preset]()
    cv2.setRNGSeed(1)
    first = degrade(hr, 4, options, draws(3))
    cv2.setRNGSeed(2)
    assert np.array_equal(first, degrade(hr, 4, options, draws(3, [])))
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert cv2.getNumThreads() == threads
    assert options == PRESETS[preset]()
    if preset != "bicubic":
        assert not np.array_equal(first, degrade(hr, 4, options, draws(4)))


def test_bad_sizes_are_refused(hr: np.ndarray) -> None:
    with pytest.raises(ValueError, match="144x95 px cannot be reduced by 4"):
        degrade(hr[:95], 4, PRESETS["bicubic"](), draws(0))


def draw(name: str, count: int, **changes: object) -> list[list[str]]:
    image = philox(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    result = []
    for key in range(count):
        result.append([])
        degrade(image, 4, replace(PRESETS[name](), **changes), draws(key, result[-1]))
    return result


def factors(samples: list[list[str]]) -> np.ndarray:
    found = [re.search(r"resize x([\d.]+)", " ".join(lines)) for lines in samples]
    return np.array([float(match[1]) for match in found if match])


def test_second_order_takes_its_steps_in_order() -> None:
    samples = draw("realesrgan", 600)
    letters = {"blur": "b", "sinc": "b", "resize": "r", "gaussian": "n", "poisson": "n"}
    orders = Counter(
        "".join(letters.get(line.split()[0], "j") for line in lines) for lines in samples
    )
    # (Blur, resize, noise, JPEG), [blur], resize, noise, then JPEG before or after resize [sinc].
    assert set(orders) == {
        f"brnj{blur}rn{end}" for blur in ("b", "") for end in ("rj", "rbj", "jr", "jrb")
    }
    last_first = sum(count for order, count in orders.items() if order.endswith("j"))
    assert last_first / 600 == pytest.approx(0.5, abs=0.07)
    blurred = sum(count for order, count in orders.items() if order[4] == "b")
    assert blurred / 600 == pytest.approx(0.8, abs=0.06)
    sincs = sum(count for order, count in orders.items() if order.endswith(("rbj", "jrb")))
    assert sincs / 600 == pytest.approx(0.8, abs=0.06)


def test_first_resize_has_its_odds_and_range() -> None:
    found = factors(draw("realesrgan", 600))
    assert (found > 1).mean() == pytest.approx(0.2, abs=0.06)
    assert (found == 1).mean() == pytest.approx(0.1, abs=0.05)
    assert 0.14 <= found.min() < 0.2
    assert 1.45 < found.max() <= 1.5
    found = factors(draw("realsr_diffusion", 300))
    assert 0.29 <= found.min() < 0.35


def test_noise_kinds_have_their_odds() -> None:
    lines = [line for lines in draw("realesrgan", 400) for line in lines]
    noises = [line for line in lines if line.startswith(("gaussian", "poisson"))]
    assert len(noises) == 800
    gray = sum("gray" in line for line in noises) / 800
    assert gray == pytest.approx(0.4, abs=0.06)
    assert sum(line.startswith("poisson") for line in noises) / 800 == pytest.approx(0.5, abs=0.06)
    qualities = [int(line.split()[1]) for line in lines if line.startswith("JPEG")]
    assert 30 <= min(qualities) < 33
    assert 92 < max(qualities) <= 95


def test_bsrgan_shuffles_and_downsamples_in_two_steps() -> None:
    samples = draw("bsrgan", 300)
    places = Counter(
        next(i for i, line in enumerate(lines) if line.startswith("gaussian")) for lines in samples
    )
    assert len(places) >= 6
    for lines in samples:
        assert lines[-1].startswith("JPEG")
        assert sum(line.startswith("blur iso") for line in lines) == 1
        assert sum(line.startswith("blur aniso") for line in lines) == 1
        assert sum(line.startswith(("resize", "blur shifted")) for line in lines) in (2, 3)
    shifted = sum("shifted" in " ".join(lines) for lines in samples) / 300
    assert shifted == pytest.approx(0.25, abs=0.08)
    halved = sum(
        sum(line.startswith(("res", "blur s")) for line in lines) == 3 for lines in samples
    )
    assert halved / 300 == pytest.approx(0.25, abs=0.08)
    kinds = Counter(line.split()[1] for lines in samples for line in lines if "gaussian" in line)
    assert kinds["gray"] / 300 == pytest.approx(0.4, abs=0.09)
    assert kinds["correlated"] / 300 == pytest.approx(0.2, abs=0.08)


def test_options_change_what_is_drawn() -> None:
    assert all("WebP" in " ".join(lines) for lines in draw("realesrgan", 3, webp_probability=1.0))
    plain = draw("bsrgan", 20, compression_probability=0.0, nearest_probability=1.0)
    assert all(sum(line.startswith("JPEG") for line in lines) == 1 for lines in plain)
    assert all("every" in " ".join(lines) for lines in plain)
    assert isinstance(PRESETS["bsrgan"](), Bsrgan)
    assert isinstance(PRESETS["realsr_diffusion"](), SecondOrder)


def test_draws_are_what_they_say() -> None:
    generator = philox(1)
    drawn = Draws(generator)
    counts = Counter(drawn.choose([1.0, 0.0, 3.0, 0.0]) for _ in range(4000))
    assert set(counts) == {0, 2}
    assert counts[2] / 4000 == pytest.approx(0.75, abs=0.03)
    values = [drawn.uniform([2.0, 5.0]) for _ in range(4000)]
    assert min(values) >= 2.0
    assert max(values) < 5.0
    assert np.mean(values) == pytest.approx(3.5, abs=0.06)
    bits = words(generator, 100_001)
    assert len(bits) == 100_001
    assert bits.mean() == pytest.approx(32767.5, rel=0.01)
    assert bits.max() > 65_500
    assert bits.min() < 40
