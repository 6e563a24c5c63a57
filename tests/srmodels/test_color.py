"""Colour fixes give the reference's colours and keep the picture's details."""

import pytest
import torch
from torch import Tensor

from srmodels.color import COLOR_FIXES, ColorFix


def picture(seed: int) -> Tensor:
    """Smooth colours with details on them, `[1, 3, 192, 160]`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (192, 160), mode="bicubic")
    return smooth + 0.1 * torch.randn(1, 3, 192, 160, generator=generator)


def fixed(fix: ColorFix, x: Tensor, reference: Tensor, height: int = 1000) -> Tensor:
    """The fixed picture, given in bands of this height."""
    bands = zip(x.split(height, dim=2), reference.split(height, dim=2), strict=True)
    return torch.cat(list(fix(bands, None)), dim=2)


def adain(x: Tensor, reference: Tensor) -> Tensor:
    return fixed(COLOR_FIXES["adain"], x, reference)


def wavelet(x: Tensor, reference: Tensor) -> Tensor:
    return fixed(COLOR_FIXES["wavelet"], x, reference)


@pytest.mark.parametrize("fix", COLOR_FIXES.values(), ids=COLOR_FIXES)
@pytest.mark.parametrize("height", [20, 31, 32, 100])
def test_bands_of_any_height_give_the_same_picture(fix: ColorFix, height: int) -> None:
    x, reference = picture(0), picture(1)
    assert torch.allclose(fixed(fix, x, reference, height), fixed(fix, x, reference), atol=1e-6)


@pytest.mark.parametrize("fix", COLOR_FIXES.values(), ids=COLOR_FIXES)
def test_a_picture_is_its_own_reference(fix: ColorFix) -> None:
    x = picture(0)
    assert torch.allclose(fixed(fix, x, x), x, atol=1e-4)


@pytest.mark.parametrize("fix", COLOR_FIXES.values(), ids=COLOR_FIXES)
def test_a_shift_of_colour_is_undone(fix: ColorFix) -> None:
    x = picture(0)
    shifted = x + torch.tensor([0.1, -0.2, 0.05])[None, :, None, None]
    assert torch.allclose(fixed(fix, shifted, x), x, atol=1e-4)


def test_adain_gives_the_references_moments() -> None:
    x, reference = picture(0), 0.3 * picture(1) + 0.5
    result = adain(x, reference)
    assert torch.allclose(result.mean((2, 3)), reference.mean((2, 3)), atol=1e-5)
    assert torch.allclose(result.std((2, 3)), reference.std((2, 3)), rtol=1e-3)


def test_the_wavelet_takes_colours_from_one_and_details_from_the_other() -> None:
    x, reference = picture(0), picture(1)
    result = wavelet(x, reference)
    blurred = torch.nn.functional.avg_pool2d
    towards = (blurred(result - reference, 32).abs().mean(), blurred(result - x, 32).abs().mean())
    assert towards[0] < 0.2 * towards[1]
    step = (result - x).diff(dim=3).abs().mean()
    assert step < 0.1 * x.diff(dim=3).abs().mean()
    # A gradient of colour that spans the picture is no detail, an edge of a pixel is.
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32] = 1.0
    kept = (
        wavelet(edge, torch.zeros_like(edge))[..., 32]
        - wavelet(edge, torch.zeros_like(edge))[..., 20]
    )
    assert kept.min() > 0.9
