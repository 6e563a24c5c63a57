"""Which sample is trained at which position: a function of (manifest digest, seed) alone."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Draw:
    """What stands at one position of the global stream.

    index: into the training samples in the manifest's order. seed: 63 bits, the source of the
    sample's crop, flips, degradation and of the stage's noise.
    """

    position: int
    index: int
    seed: int


class SampleOrder:
    """Shuffled without replacement within an epoch, every epoch differently.

    A pure function of its arguments: workers, nodes and loader threads play no part, and the
    state to resume from is the number of samples consumed.
    """

    def __init__(self, manifest_digest: str, seed: int, num_samples: int) -> None:
        assert num_samples > 0
        self.identity = f"{manifest_digest}:{seed}"
        self.num_samples = num_samples
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> Draw:
        epoch, place = divmod(position, self.num_samples)
        if epoch != self._epoch:
            generator = np.random.default_rng(self._hash("epoch", epoch))
            self._permutation = generator.permutation(self.num_samples)
            self._epoch = epoch
        seed = self._hash("sample", position) & 0x7FFFFFFFFFFFFFFF
        return Draw(position, int(self._permutation[place]), seed)

    def step(self, step: int, batch_size: int, rank: int, world_size: int) -> list[Draw]:
        """A rank's share of a global batch: every `world_size`-th position, from `rank` on."""
        first = step * batch_size
        return [self[first + i] for i in range(rank, batch_size, world_size)]

    def _hash(self, purpose: str, number: int) -> int:
        text = f"{self.identity}:{purpose}:{number}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
