"""The few kinds of random choice that the degradations make, from an explicit generator."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Draws:
    """The random choices of one sample.

    Attributes:
        generator: the only source of randomness.
        log: receives one line of text per step that was applied; None: nobody reads them.
    """

    generator: np.random.Generator
    log: list[str] | None = None

    def say(self, line: str) -> None:
        """Logs a step."""
        if self.log is not None:
            self.log.append(line)

    def happens(self, probability: float) -> bool:
        """Returns True with `probability`; always draws once, so that options do not shift later
        draws."""
        return bool(self.generator.random() < probability)

    def uniform(self, limits: list[float]) -> float:
        """Returns a float in `[limits[0], limits[1])`."""
        low, high = limits
        return low + (high - low) * self.generator.random()

    def choose(self, odds: list[float]) -> int:
        """Returns an index of `odds`, drawn in proportion to them (they need not sum to 1)."""
        # fsum is exact; `sum` of floats changed its rounding in Python 3.12.
        mark = self.generator.random() * math.fsum(odds)
        last = max(index for index, share in enumerate(odds) if share > 0)
        for index in range(last):
            if mark < math.fsum(odds[: index + 1]):
                return index
        return last

    def choose_size(self, sizes: list[int]) -> int:
        """Returns one of `sizes` with equal odds."""
        return sizes[int(self.generator.integers(len(sizes)))]


def words(generator: np.random.Generator, count: int) -> NDArray[np.uint16]:
    """Returns `[count]` uniform 16-bit integers, four from each 64-bit draw, lowest first."""
    raw = generator.integers(0, 2**64, -(-count // 4), dtype=np.uint64)
    return raw.astype("<u8", copy=False).view("<u2")[:count]
