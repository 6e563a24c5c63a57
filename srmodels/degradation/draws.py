"""The few kinds of random choice that the degradations make, from an explicit generator."""

import math

import numpy as np
from numpy.typing import NDArray


def happens(generator: np.random.Generator, probability: float) -> bool:
    """True with `probability`; always draws once, so that options do not shift later draws."""
    return bool(generator.random() < probability)


def uniform(generator: np.random.Generator, limits: list[float]) -> float:
    """A float in `[limits[0], limits[1])`."""
    low, high = limits
    return low + (high - low) * generator.random()


def choose(generator: np.random.Generator, odds: list[float]) -> int:
    """An index of `odds`, drawn in proportion to them (they need not sum to 1)."""
    # fsum is exact; `sum` of floats changed its rounding in Python 3.12.
    mark = generator.random() * math.fsum(odds)
    last = max(index for index, share in enumerate(odds) if share > 0)
    for index in range(last):
        if mark < math.fsum(odds[: index + 1]):
            return index
    return last


def choose_size(generator: np.random.Generator, sizes: list[int]) -> int:
    """One of `sizes` with equal odds."""
    return sizes[int(generator.integers(len(sizes)))]


def words(generator: np.random.Generator, count: int) -> NDArray[np.uint16]:
    """`[count]` uniform 16-bit integers, four from each 64-bit draw, lowest first."""
    raw = generator.integers(0, 2**64, -(-count // 4), dtype=np.uint64)
    return raw.astype("<u8", copy=False).view("<u2")[:count]
