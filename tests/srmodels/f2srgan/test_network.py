"""F2SRGAN: its sizes, its Fourier units, and what a plain stack begins as."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipelines.config.load import load_config
from srmodels.edge.onnx import OnnxFp16, OnnxFp32, OnnxFp32Dynamic
from srmodels.edge.target import ExportSettings, check_parity
from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.fourier import DFT, FFT, FourierUnit
from srmodels.f2srgan.network import F2SRGAN
from srmodels.tiling import Tiling

TRUNKS = ("fourier", "separable", "plain")


def small(trunk: str, **changes: object) -> F2SRGAN:
    torch.manual_seed(0)
    settings: dict[str, object] = {"trunk": trunk, "channels": 16, "num_blocks": 2} | changes
    return F2SRGAN(F2SRGANConfig(**settings)).eval()  # type: ignore[arg-type]


def num_shipped(network: F2SRGAN) -> int:
    return sum(p.numel() for m in network.inference_modules().values() for p in m.parameters())


@pytest.mark.parametrize(
    ("trunk", "channels", "num_blocks", "expected"),
    [
        ("fourier", 64, 16, 202_209),  # the released teacher
        ("separable", 64, 8, 113_121),
        ("separable", 48, 8, 66_417),
        ("separable", 34, 8, 35_631),
    ],
)
def test_the_sizes_are_those_of_the_papers(
    trunk: str, channels: int, num_blocks: int, expected: int
) -> None:
    with torch.device("meta"):
        config = F2SRGANConfig(trunk=trunk, channels=channels, num_blocks=num_blocks)
        assert num_shipped(F2SRGAN(config)) == expected


@pytest.mark.parametrize(
    ("recipe", "least", "most"),
    [
        ("f2srgan", 202_209, 202_209),
        ("f2srgan_student", 60_000, 75_000),
        ("light_mobile", 50_000, 65_000),
    ],
)
def test_the_recipes_have_the_sizes_that_they_promise(recipe: str, least: int, most: int) -> None:
    network = F2SRGAN(load_config([f"recipe={recipe}"]).networks).fuse()
    assert least <= num_shipped(network) <= most


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("scale", [2, 4])
def test_it_enlarges_into_the_unit_range(trunk: str, scale: int) -> None:
    network, x_l = small(trunk, scale=scale), torch.rand(2, 3, 16, 12)
    x = network(x_l)
    assert x.shape == (2, 3, scale * 16, scale * 12)
    assert 0 <= x.min() <= x.max() <= 1
    assert torch.allclose(x[1:], network(x_l[1:]), atol=1e-6)
    # A clamp would stop what learns.
    assert network.train()(torch.ones(1, 3, 8, 8) * 1.5).max() > 1


@pytest.mark.parametrize("conv", ["plain", "ecb"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_plain_stack_begins_as_an_enlargement(conv: str, scale: int) -> None:
    network = small("plain", conv=conv, scale=scale)
    x_l = torch.rand(1, 3, 12, 12)
    expected = F.interpolate(x_l, scale_factor=scale, mode="nearest")
    generator = network.generator
    with torch.no_grad():
        # What the channels beside the image say is the only difference.
        assert (generator(x_l) - expected).abs().mean() < 0.2
        fused = network.fuse().generator
        fused.tail.weight[:, 3:] = 0  # type: ignore[union-attr,index,operator]
        assert torch.allclose(fused(x_l), expected, atol=1e-5)


def test_a_plain_stack_ships_as_convolutions_and_relu_alone() -> None:
    network = small("plain").fuse()
    kinds = {type(m).__name__ for m in network.generator.modules() if not list(m.children())}
    assert kinds == {"Conv2d", "PixelShuffle"}


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (12, 7)])
def test_the_products_of_matrices_are_the_transform(size: tuple[int, int]) -> None:
    x, fft, dft = torch.randn(2, 3, *size), FFT(), DFT(*size)
    expected, found = fft(x), dft(x)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(dft.inverse(*found, size), x, atol=1e-5)
    # Also of a spectrum that is none of a real image, as a convolution leaves it.
    spectrum = torch.randn(2, 2, 3, *expected[0].shape[2:])
    assert torch.allclose(dft.inverse(*spectrum, size), fft.inverse(*spectrum, size), atol=1e-5)


def test_a_fourier_unit_is_a_complex_convolution_of_the_spectrum() -> None:
    torch.manual_seed(0)
    unit, x = FourierUnit(4), torch.randn(2, 4, 6, 8)
    torch.nn.init.normal_(unit.bias)
    spectrum = torch.fft.rfft2(x, norm="ortho")
    weight = torch.complex(unit.real, unit.imaginary)
    bias = torch.complex(*unit.bias.chunk(2))
    mixed = torch.einsum("oi,bihw->bohw", weight, spectrum) + bias[:, None, None]
    expected = torch.fft.irfft2(mixed, s=(6, 8), norm="ortho")
    assert torch.allclose(unit(x), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_spectrum_outgrows_fp16_and_is_computed_in_fp32(dtype: torch.dtype) -> None:
    gray = torch.full((1, 4, 1080, 1080), 0.5)
    assert torch.isinf(gray[0, 0].sum().half())  # F(0, 0) of 583,200, where fp16 ends at 65,504
    torch.manual_seed(0)
    unit, small_image = FourierUnit(4), torch.rand(1, 4, 8, 8)
    expected = unit(small_image)
    with torch.autocast("cpu", dtype):
        assert torch.isfinite(unit(gray)).all()
        # A product in half precision would differ by a thousandth.
        assert torch.allclose(unit(small_image).float(), expected, atol=1e-6)


def test_a_network_of_one_tile_size_has_matrices_and_computes_the_same() -> None:
    network, x_l = small("fourier"), torch.rand(1, 3, 16, 16)
    tiled = network.for_tile(16)
    assert not any(isinstance(module, FFT) for module in tiled.modules())
    assert any(isinstance(module, FFT) for module in network.modules())
    assert torch.allclose(tiled(x_l), network(x_l), atol=1e-5)
    assert network.tiling(16) == Tiling.for_tile(16)
    assert small("separable").tiling(16) == Tiling.for_any_size(1)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_phones_get_the_same_image(trunk: str, tmp_path: Path) -> None:
    network, path = small(trunk).fuse(), tmp_path / "model.onnx"
    images = [torch.rand(1, 3, 16, 16)]
    settings = ExportSettings(tile=16)
    OnnxFp32().export(network, path, settings)
    assert check_parity(network, OnnxFp32().load(path), images).max_error < 1e-5
    OnnxFp16().export(network, path, settings)
    assert check_parity(network, OnnxFp16().load(path), images).max_error < 0.02
    if trunk == "fourier":
        with pytest.raises(ValueError, match="one tile size"):
            OnnxFp32Dynamic().export(network, path, settings)
        return
    OnnxFp32Dynamic().export(network, path, settings)
    wide = [torch.rand(1, 3, 24, 40)]
    assert check_parity(network, OnnxFp32Dynamic().load(path), wide).max_error < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk": "deep"}, "networks.trunk is 'deep': use one of fourier, separable, plain"),
        ({"channels": 40}, "must be a multiple of 16 with networks.trunk=fourier"),
        ({"scale": 3}, "networks.scale is 3: use one of 2, 4, 8"),
        ({"trunk": "plain", "channels": 2}, "set 3 or more"),
        ({"trunk": "plain", "conv": "repvgg"}, "networks.conv is 'repvgg': use one of ecb, plain"),
    ],
)
def test_impossible_numbers_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F2SRGANConfig(**change)  # type: ignore[arg-type]
