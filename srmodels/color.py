"""Giving an enlarged picture the colours of the one it was made from: optional, after a network
that drifts in colour, as diffusion models do.

Both ways are StableSR's (Wang et al., arXiv 2305.07015, section 3.3 and its code's options). They
work on bands of a picture, since a large picture does not fit into memory.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

#: Levels of the wavelet: details up to about 2 ** LEVELS pixels are the picture's own.
LEVELS = 5
#: Rows above and below a row that the wavelet needs to fix it.
REACH = 2**LEVELS - 1

#: A picture from top to bottom: bands `[1, 3, rows, W]` of what the network made, each with the
#: same band of the reference, the photo enlarged by bicubic interpolation.
Bands = Iterable[tuple[Tensor, Tensor]]
#: Yields the bands of a fixed picture, of any heights; the folder is for temporary files.
ColorFix = Callable[[Bands, Path | None], Iterator[Tensor]]


def adain(bands: Bands, scratch: Path | None = None) -> Iterator[Tensor]:
    """Yields the picture with every channel's mean and standard deviation as in the reference
    (Huang and Belongie, arXiv 1703.06868).

    These are known at the end only, so the picture waits in a temporary file of 12 bytes per pixel.

    Args:
        scratch: folder of that file; None: the system's.

    Raises:
        OSError: the file cannot be written.
    """
    found, wanted, shapes = _Moments(), _Moments(), []
    with tempfile.TemporaryFile(dir=scratch) as file:
        for band, reference in bands:
            found.add(band)
            wanted.add(reference)
            shapes.append(band.shape)
            file.write(band.float().cpu().numpy().tobytes())
        (mean, std), (wanted_mean, wanted_std) = found.of_all(), wanted.of_all()
        file.seek(0)
        for shape in shapes:
            stored = bytearray(file.read(4 * shape.numel()))
            x = torch.frombuffer(stored, dtype=torch.float32).reshape(shape)
            yield (x - mean) / std * wanted_std + wanted_mean


def wavelet(bands: Bands, scratch: Path | None = None) -> Iterator[Tensor]:
    """Yields the details of the picture on the low frequencies of the reference, by an à trous
    wavelet.

    Args:
        scratch: not used.
    """
    both, done = torch.empty(0), 0  # rows before `done` are out already, and surround others
    for band, reference in bands:
        both = torch.cat([both, torch.cat([band, reference])], dim=2)
        ready = both.shape[2] - REACH
        if ready > done:
            yield _wavelet(*both)[:, :, done:ready]
            first = max(ready - REACH, 0)
            both, done = both[:, :, first:], ready - first
    yield _wavelet(*both)[:, :, done:]


#: By the name that `srmill upscale --color-fix` knows.
COLOR_FIXES: dict[str, ColorFix] = {"adain": adain, "wavelet": wavelet}


class _Moments:
    """Mean and standard deviation of every channel, gathered from bands."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.sum_of_squares = torch.zeros(1, 3, 1, 1, dtype=torch.float64)

    def add(self, band: Tensor) -> None:
        count = band.shape[2] * band.shape[3]
        std, mean = torch.std_mean(band.cpu(), dim=(2, 3), keepdim=True, correction=0)
        std, mean = std.double(), mean.double()
        self.count += count
        self.sum = self.sum + count * mean
        self.sum_of_squares = self.sum_of_squares + count * (std**2 + mean**2)

    def of_all(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        variance = (self.sum_of_squares / self.count - mean**2).clamp(min=0)
        return mean.float(), variance.sqrt().float() + 1e-5


def _wavelet(x: Tensor, reference: Tensor) -> Tensor:
    """Returns `[1, 3, H, W]` of two pictures `[3, H, W]`."""
    return x[None] - _low_frequencies(x[None]) + _low_frequencies(reference[None])


def _low_frequencies(x: Tensor) -> Tensor:
    """Returns what is left after LEVELS rounds of a binomial filter that doubles its reach each
    time."""
    for level in range(LEVELS):
        reach = 2**level
        for dim, border in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
            length = x.shape[dim]
            padded = F.pad(x, border, mode="replicate")
            before, x, after = (padded.narrow(dim, i * reach, length) for i in range(3))
            x = (before + after).mul_(0.25).add_(x, alpha=0.5)
    return x
