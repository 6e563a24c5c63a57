"""Noise that belongs to a sample, whatever batch or rank it comes with."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from srmodels.transfer import to_device


def per_sample_normal(
    seeds: Tensor, shape: Sequence[int], stream: int = 0, *, device: torch.device
) -> Tensor:
    """Returns standard normal noise `[B, *shape]` on `device`, each sample's from its own seed.

    Args:
        seeds: `[B]` int64, in main memory.
        shape: shape of one sample.
        stream: separates independent draws of the same sample.

    Seeds without values (meta or fake tensors) give noise without values.
    """
    if _has_no_values(seeds):
        return torch.empty(len(seeds), *shape, device=device)
    drawn = [
        torch.randn(tuple(shape), generator=_generator(seed, stream)) for seed in seeds.tolist()
    ]
    return to_device(torch.stack(drawn), device)


def per_sample_uniform(seeds: Tensor, stream: int = 0, *, device: torch.device) -> Tensor:
    """Returns uniform numbers `[B]` in [0, 1) on `device`, each drawn from its sample's own seed;
    without values where the seeds have none."""
    if _has_no_values(seeds):
        return torch.empty(len(seeds), device=device)
    drawn = [torch.rand(1, generator=_generator(seed, stream)) for seed in seeds.tolist()]
    return to_device(torch.cat(drawn), device)


def _has_no_values(seeds: Tensor) -> bool:
    """Returns True where only shapes are computed, as in a dry run."""
    return seeds.is_meta or isinstance(seeds, FakeTensor)


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + stream) & 0x7FFFFFFFFFFFFFFF)
