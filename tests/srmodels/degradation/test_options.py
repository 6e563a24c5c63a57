from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from srmodels.degradation import PRESETS, Bicubic, Bsrgan, SecondOrder
from srmodels.degradation.options import Blur, Final, Noise, Pass, Resize


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_configurations(name: str) -> None:
    preset = PRESETS[name]()
    assert OmegaConf.to_object(OmegaConf.structured(preset)) == preset
    assert PRESETS[name]() is not preset


def test_one_number_of_a_preset_can_be_changed() -> None:
    base = OmegaConf.structured(PRESETS["realesrgan"]())
    change = {"first": {"blur": {"sigma": [1, 2]}}, "webp_probability": 0.5}
    merged = OmegaConf.to_object(OmegaConf.merge(base, change))
    expected = PRESETS["realesrgan"]()
    expected.first.blur.sigma = [1.0, 2.0]
    expected.webp_probability = 0.5
    assert merged == expected
    assert isinstance(merged, SecondOrder)


def test_a_merged_configuration_is_checked() -> None:
    base = OmegaConf.structured(PRESETS["realesrgan"]())
    merged = OmegaConf.merge(base, {"second": {"quality": [0, 95]}})
    with pytest.raises(ValueError, match=r"quality is \[0.0, 95.0\]: set it to two ascending"):
        OmegaConf.to_object(merged)


def test_realesrgan_has_the_published_numbers() -> None:
    preset = asdict(PRESETS["realesrgan"]())
    first, second = preset["first"], preset["second"]
    assert first["blur"]["kernel_sizes"] == list(range(7, 22, 2))
    assert first["blur"]["kind_odds"] == [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
    assert (first["blur"]["probability"], second["blur"]["probability"]) == (1.0, 0.8)
    assert (first["blur"]["sigma"], second["blur"]["sigma"]) == ([0.2, 3.0], [0.2, 1.5])
    assert (first["resize"]["odds"], second["resize"]["odds"]) == ([0.2, 0.7, 0.1], [0.3, 0.4, 0.3])
    assert (first["resize"]["range"], second["resize"]["range"]) == ([0.15, 1.5], [0.3, 1.2])
    assert first["noise"]["gaussian_sigma"] == [1.0, 30.0]
    assert second["noise"]["gaussian_sigma"] == [1.0, 25.0]
    assert first["noise"]["poisson_scale"] == [0.05, 3.0]
    assert second["noise"]["poisson_scale"] == [0.05, 2.5]
    assert first["noise"]["gray_probability"] == second["noise"]["gray_probability"] == 0.4
    assert first["quality"] == second["quality"] == [30.0, 95.0]
    assert preset["final"]["sinc_probability"] == 0.8
    assert preset["webp_probability"] == 0.0


def test_realsr_diffusion_differs_from_realesrgan_where_published() -> None:
    preset, other = asdict(PRESETS["realsr_diffusion"]()), asdict(PRESETS["realesrgan"]())
    other["first"]["resize"]["range"] = [0.3, 1.5]
    other["second"]["resize"]["range"] = [0.6, 1.2]
    other["first"]["noise"] |= {"gaussian_sigma": [1.0, 15.0], "poisson_scale": [0.05, 2.0]}
    other["second"]["noise"] |= {"gaussian_sigma": [1.0, 12.0], "poisson_scale": [0.05, 1.0]}
    other["first"]["quality"], other["second"]["quality"] = [60.0, 95.0], [60.0, 100.0]
    other["second"]["blur"]["probability"] = 0.5
    assert preset == other


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Blur, "probability", 1.2),
        (Blur, "kernel_sizes", [7, 8]),
        (Blur, "kernel_sizes", []),
        (Blur, "kernel_sizes", [43]),
        (Blur, "kind_odds", [0.5, 0.5]),
        (Blur, "kind_odds", [0.0] * 6),
        (Blur, "kind_odds", [1.0, -0.1, 0.0, 0.0, 0.0, 0.0]),
        (Blur, "kind_odds", [float("nan")] * 6),
        (Blur, "sigma", [0.0, 3.0]),
        (Blur, "sigma", [3.0, 0.2]),
        (Blur, "sigma", [0.2]),
        (Blur, "sigma", [float("nan"), 1.0]),
        (Blur, "beta_plateau", [1.5, 2.0]),
        (Blur, "beta_generalized", [0.0, 2.0]),
        (Blur, "sinc_probability", -0.1),
        (Resize, "odds", [1.0, 1.0]),
        (Resize, "range", [0.2, 0.9]),
        (Resize, "range", [0.0, 1.5]),
        (Resize, "interpolation_odds", [0.0, 0.0, 0.0]),
        (Noise, "gaussian_probability", 2.0),
        (Noise, "gray_probability", float("nan")),
        (Noise, "gaussian_sigma", [-1.0, 2.0]),
        (Noise, "poisson_scale", [2.0, 1.0]),
        (Pass, "quality", [30.0, 101.0]),
        (Pass, "quality", [0.0, 95.0]),
        (Final, "sinc_probability", 1.1),
        (Final, "kernel_sizes", [1]),
        (Final, "interpolation_odds", [1.0]),
        (SecondOrder, "webp_probability", 1.5),
        (Bsrgan, "kernel_sizes", [4]),
        (Bsrgan, "isotropic_sigma", [0.0, 1.0]),
        (Bsrgan, "anisotropic_variance", [8.0, 0.5]),
        (Bsrgan, "pre_halve_probability", -1.0),
        (Bsrgan, "nearest_probability", 7.0),
        (Bsrgan, "compression_probability", 7.0),
        (Bsrgan, "webp_probability", 7.0),
        (Bsrgan, "shrink", [0.0, 1.0]),
        (Bsrgan, "interpolation_odds", []),
        (Bsrgan, "gaussian_sigma", [1.0, 300.0]),
        (Bsrgan, "noise_odds", [1.0, 1.0]),
        (Bsrgan, "quality", [95.0, 30.0]),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(kind: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} is .*: set "):
        kind(**{field: value})


def test_bicubic_has_nothing_to_set() -> None:
    assert asdict(Bicubic()) == {}
