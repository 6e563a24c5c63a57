"""Noise that belongs to a sample, whatever batch or rank it comes with."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def per_sample_normal(seeds: Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """Returns standard normal noise `[B, *shape]`, each sample's drawn from its own seed.

    Args:
        seeds: `[B]` int64.
        shape: shape of one sample.
        stream: separates independent draws of the same sample.

    Seeds without values (meta or fake tensors) give noise without values.
    """
    if _has_no_values(seeds):
        return torch.empty(len(seeds), *shape, device=seeds.device)
    return torch.stack(
        [torch.randn(tuple(shape), generator=_generator(int(s), stream)) for s in seeds.cpu()]
    ).to(seeds.device)


def per_sample_uniform(seeds: Tensor, stream: int = 0) -> Tensor:
    """Returns uniform numbers `[B]` in [0, 1), each drawn from its sample's own seed; without
    values where the seeds have none."""
    if _has_no_values(seeds):
        return torch.empty(len(seeds), device=seeds.device)
    return torch.cat([torch.rand(1, generator=_generator(int(s), stream)) for s in seeds.cpu()]).to(
        seeds.device
    )


def _has_no_values(seeds: Tensor) -> bool:
    """Returns True where only shapes are computed, as in a dry run."""
    return seeds.is_meta or isinstance(seeds, FakeTensor)


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + stream) & 0x7FFFFFFFFFFFFFFF)
