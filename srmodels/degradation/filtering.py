"""Blur by any kernel in a few separable passes whose float32 arithmetic has no rounding error.

OpenCV's own filters are not reproducible across CPUs (fused multiply-add, DFT for large kernels).
Here an image of integers meets integer taps, and every partial sum stays below 2**24, where float32
is exact, so that neither the order of additions nor the instruction set can change a bit.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Kernel = NDArray[np.float64]
Taps = NDArray[np.float32]

#: The image is centred on 128, so that its values take 7 bits and a sign.
_CENTRE = 128
_LIMIT = 2**24 // _CENTRE
#: Share of the kernel's weight (Σ|taps|) that the separable passes may leave out or add.
TOLERANCE = 1 / 64
_PASSES = 12


@dataclass(frozen=True)
class Separable:
    """Integer taps: the kernel is close to Σ column·row / total, for `terms` of (column, row).

    Columns and rows are `[size]` float32; `total` is the sum of all products.
    """

    terms: list[tuple[Taps, Taps]]
    total: int

    def dense(self) -> Kernel:
        """Returns the kernel that is in effect applied, `[size, size]`, summing to 1."""
        products = [np.outer(c.astype(np.float64), r.astype(np.float64)) for c, r in self.terms]
        return np.asarray(np.sum(products, axis=0) / self.total)


def separate(kernel: Kernel) -> Separable:
    """Returns the fewest separable integer passes that are about within `TOLERANCE` of `kernel`:
    those of the shipped presets are. Kernels far beyond them (a sinc of 41 px, the steepest
    plateaus) may need more passes than there are, and come out smoother or coarser.

    Args:
        kernel: `[size, size]`, odd size, summing to 1.
    """
    kernel = _cropped(kernel)
    best = None
    # The further the terms' magnitudes exceed the kernel's, the coarser its taps have to be.
    for excess in (1.1, 1.5, 2.0, 3.0, 5.0):
        found, error = _greedy(kernel, excess)
        if best is None or error < best[1]:
            best = found, error
        if error <= TOLERANCE:
            break
    assert best is not None
    return best[0]


def _cropped(kernel: Kernel) -> Kernel:
    """Returns the kernel without the outer rings that hold next to nothing; they would only cost
    time."""
    size = len(kernel)
    weight = np.abs(kernel)
    enough = (1 - TOLERANCE / 8) * weight.sum()
    for margin in range(size // 2, 0, -1):
        inner = slice(margin, size - margin)
        if weight[inner, inner].sum() >= enough:
            return kernel[inner, inner]
    return kernel


def _greedy(kernel: Kernel, excess: float) -> tuple[Separable, float]:
    """Adds the best rank-1 term of what is left, its rounding errors included, until it suffices.

    Also returns the share of the kernel's weight that is still left then.
    """
    weight = float(np.abs(kernel).sum())
    one = math.floor(_LIMIT / (weight * excess))
    # Rounded first, so that the last bits of exp and the like do not matter.
    left = np.rint(kernel * (one * 256)) / 256
    terms: list[tuple[Taps, Taps]] = []
    used, total, error = 0.0, 0.0, 1.0
    while error > TOLERANCE and len(terms) < _PASSES:
        column, row = _rank_one(left)
        magnitude = float(np.abs(column).sum() * np.abs(row).sum())
        if magnitude == 0.0 or used + magnitude > _LIMIT:
            break
        used += magnitude
        total += float(column.sum() * row.sum())
        left = left - column[:, None] * row
        terms.append((column.astype(np.float32), row.astype(np.float32)))
        error = float(np.abs(left).sum()) / (one * weight)
    return Separable(terms, int(total)), error


def _rank_one(left: Kernel) -> tuple[Kernel, Kernel]:
    """Returns an integer (column, row) whose product is close to the largest singular component.

    Sums run along the first axis only: their order of additions is the same in every build.
    """
    turned = np.ascontiguousarray(left.T)
    column = left[:, int(np.argmax((left * left).sum(0)))].copy()
    row, norm = column, 0.0
    for _ in range(3):
        row = (left * column[:, None]).sum(0)
        row = row / max(math.sqrt((row * row)[:, None].sum(0).item()), 1e-30)
        column = (turned * row[:, None]).sum(0)
        norm = math.sqrt((column * column)[:, None].sum(0).item())
        column = column / max(norm, 1e-30)
    row = np.rint(row * math.sqrt(norm))
    square = float((row * row).sum())
    if square == 0.0:
        return np.zeros_like(column), row
    return np.rint((turned * row[:, None]).sum(0) / square), row


def apply(image: NDArray[np.uint8], kernel: Separable) -> NDArray[np.uint8]:
    """Returns `image` `[H, W, C]` uint8, blurred, with mirrored borders."""
    centred = np.subtract(image, np.float32(_CENTRE), dtype=np.float32)
    total = None
    for column, row in kernel.terms:
        part = cv2.sepFilter2D(centred, -1, row, column, borderType=cv2.BORDER_REFLECT_101)
        total = part if total is None else cv2.add(total, part, dst=total)
    assert total is not None, "a kernel that sums to 1 has at least one term"
    # One rounding, the same everywhere: it cannot be fused with what follows.
    total *= np.float32(1.0 / kernel.total)
    return to_uint8(total)


def to_uint8(centred: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns values around 128 (overwritten) as uint8: halves round up, the rest is clipped."""
    centred += np.float32(128.5)
    np.clip(centred, 0.0, 255.5, out=centred)
    return centred.astype(np.uint8)
