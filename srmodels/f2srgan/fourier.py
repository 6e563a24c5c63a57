"""Fast Fourier convolution: half of the channels also see the whole image, by its spectrum.

After Chi, Jiang and Mu, "Fast Fourier Convolution" (NeurIPS 2020), without batch norms, as in the
released F2SRGAN. Where its papers say nothing, the number of parameters of the released weights
decided: the biases of the 1x1 convolutions are a reconstruction.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.f2srgan.separable import SeparableConv


class FastFourierConv(nn.Module):
    """`[B, channels, h, w]` to the same; half of the channels are local, the others global.

    Each half of the result is the sum of a convolution of the local half and of one of the global
    half. The one from global to global is a `SpectralTransform`. h and w must be even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.local_to_local, self.local_to_global, self.global_to_local = (
            SeparableConv(half, half, padding_mode="reflect") for _ in range(3)
        )
        self.global_to_global = SpectralTransform(half)

    def forward(self, x: Tensor) -> Tensor:
        near, far = x.chunk(2, dim=1)
        return torch.cat(
            [
                self.local_to_local(near) + self.global_to_local(far),
                self.local_to_global(near) + self.global_to_global(far),
            ],
            dim=1,
        )


class SpectralTransform(nn.Module):
    """Half of the channels, a Fourier unit over the image and one over its quadrants, and back.

    The second unit reads a quarter of the channels in each of four quadrants, and its result is
    repeated in each quadrant.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = nn.Conv2d(channels, half, 1, bias=False)
        self.whole, self.quadrants = FourierUnit(half), FourierUnit(half)
        self.expand = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.reduce(x))
        quarter = x[:, : x.shape[1] // 4]
        rows = torch.cat(quarter.chunk(2, dim=2), dim=1)
        quadrants = self.quadrants(torch.cat(rows.chunk(2, dim=3), dim=1))
        repeated = torch.cat([torch.cat([quadrants] * 2, dim=2)] * 2, dim=3)
        y: Tensor = self.expand(x + self.whole(x) + repeated)
        return y


class FourierUnit(nn.Module):
    """A complex 1x1 convolution of the image's spectrum: `[B, C, h, w]` to the same.

    It computes in fp32, under autocast too: the spectrum's first element is the sum of all pixels,
    583,200 for a gray image of 1080 x 1080 px, and fp16 ends at 65,504.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # As nn.Conv2d does, for each part; divided by √2, since two products make each number.
        bound = 1 / math.sqrt(2 * channels)
        self.real, self.imaginary = (
            nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound)) for _ in range(2)
        )
        self.bias = nn.Parameter(torch.zeros(2 * channels))
        self.transform: FFT | DFT = FFT()

    def forward(self, x: Tensor) -> Tensor:
        # A plan runs on meta tensors, which know no autocast.
        if x.is_meta or not torch.is_autocast_enabled(x.device.type):
            return self._convolve(x.float()).to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return self._convolve(x.float()).to(x.dtype)

    def _convolve(self, x: Tensor) -> Tensor:
        real, imaginary = self.transform(x)
        a, b = self.real.float(), self.imaginary.float()
        # (a + ib)(x + iy) = ax - by + i(bx + ay)
        weight = torch.cat([torch.cat([a, -b], dim=1), torch.cat([b, a], dim=1)], dim=0)
        spectrum = F.conv2d(
            torch.cat([real, imaginary], dim=1), weight[:, :, None, None], self.bias.float()
        )
        real, imaginary = spectrum.chunk(2, dim=1)
        return self.transform.inverse(real, imaginary, x.shape[2:])


class FFT(nn.Module):
    """The two-dimensional real transform, orthonormal."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns real and imaginary part `[B, C, h, w // 2 + 1]` of `[B, C, h, w]`."""
        spectrum = torch.fft.rfft2(x, norm="ortho")
        return spectrum.real, spectrum.imag

    def inverse(self, real: Tensor, imaginary: Tensor, size: Iterable[int]) -> Tensor:
        """Returns the image of this size whose spectrum it is."""
        x: Tensor = torch.fft.irfft2(torch.complex(real, imaginary), s=tuple(size), norm="ortho")
        return x


class DFT(nn.Module):
    """The same transform as products of matrices, for images of one size: what every runtime knows.

    Few runtimes have a Fourier transform, and those that do are slow at it.
    """

    column_cos: Tensor
    column_sin: Tensor
    row_cos: Tensor
    row_sin: Tensor
    weights: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        frequencies = width // 2 + 1
        for name, length, wanted in (("column", height, height), ("row", width, frequencies)):
            places = torch.arange(length, dtype=torch.float64)
            angles = 2 * math.pi / length * places[:, None] * places[None, :wanted]
            scale = length**-0.5
            self.register_buffer(f"{name}_cos", (scale * angles.cos()).float(), persistent=False)
            self.register_buffer(f"{name}_sin", (scale * angles.sin()).float(), persistent=False)
        # Each frequency stands for its mirror too. The first is its own mirror; so is the last, if
        # the width is even.
        weights = torch.full((frequencies,), 2.0)
        weights[0] = 1.0
        if width % 2 == 0:
            weights[-1] = 1.0
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns real and imaginary part `[B, C, h, w // 2 + 1]` of `[B, C, h, w]`."""
        column_cos, column_sin, row_cos, row_sin = self._matrices()
        real, imaginary = x @ row_cos, -(x @ row_sin)
        return (
            column_cos @ real + column_sin @ imaginary,
            column_cos @ imaginary - column_sin @ real,
        )

    def inverse(self, real: Tensor, imaginary: Tensor, size: Iterable[int]) -> Tensor:
        """Returns the image whose spectrum it is; `size` is the one that the matrices are for."""
        column_cos, column_sin, row_cos, row_sin = self._matrices()
        weights = self.weights.float()
        rows = column_cos @ real - column_sin @ imaginary
        turned = column_cos @ imaginary + column_sin @ real
        x: Tensor = (rows * weights) @ row_cos.T - (turned * weights) @ row_sin.T
        return x

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # A network in fp16 has them in fp16, where sums over an image do not fit.
        return (
            self.column_cos.float(),
            self.column_sin.float(),
            self.row_cos.float(),
            self.row_sin.float(),
        )


def use_matrices(module: nn.Module, height: int, width: int) -> None:
    """Puts matrices of an image's size in the place of all Fourier transforms inside `module`."""
    for child in module.modules():
        if isinstance(child, SpectralTransform):
            child.whole.transform = DFT(height, width)
            child.quadrants.transform = DFT(height // 2, width // 2)
