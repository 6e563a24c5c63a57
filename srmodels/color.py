"""Giving an enlarged picture the colours of the one it was made from: optional, after a network
that drifts in colour, as diffusion models do.

Both ways are StableSR's (Wang et al., arXiv 2305.07015, section 3.3 and its code's options).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

#: Levels of the wavelet: details up to about 2 ** LEVELS pixels are the picture's own.
LEVELS = 5


def adain(x: Tensor, reference: Tensor) -> Tensor:
    """Returns x with every channel's mean and standard deviation as in `reference` (Huang and
    Belongie, arXiv 1703.06868).

    Args:
        x, reference: `[B, 3, H, W]`, of any two sizes.
    """
    (mean, std), (wanted_mean, wanted_std) = (_moments(image) for image in (x, reference))
    return (x - mean) / std * wanted_std + wanted_mean


def wavelet(x: Tensor, reference: Tensor) -> Tensor:
    """Returns the details of x on the low frequencies of `reference`, by an à trous wavelet.

    Args:
        x, reference: `[B, 3, H, W]`, of one size.
    """
    return x - _low_frequencies(x) + _low_frequencies(reference)


#: By the name that `srmill upscale --color-fix` knows.
COLOR_FIXES = {"adain": adain, "wavelet": wavelet}


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    std, mean = torch.std_mean(x, dim=(2, 3), keepdim=True, correction=0)
    return mean, std + 1e-5


def _low_frequencies(x: Tensor) -> Tensor:
    """Returns what is left after LEVELS rounds of a binomial filter that doubles its reach each
    time."""
    taps = torch.tensor([0.25, 0.5, 0.25]).to(x)
    kernel = (taps[:, None] * taps[None]).expand(x.shape[1], 1, 3, 3)
    for level in range(LEVELS):
        reach = 2**level
        padded = F.pad(x, (reach,) * 4, mode="replicate")
        x = F.conv2d(padded, kernel, groups=x.shape[1], dilation=reach)
    return x
