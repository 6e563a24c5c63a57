"""Activation checkpointing: trades a second forward pass for the memory of its activations."""

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(modules: Iterable[nn.Module]) -> None:
    """Makes each module keep its inputs alone and compute the rest again in backward.

    Losses and gradients stay the same to the bit where the module's kernels are deterministic;
    names and values of the weights stay as they are. Without gradients nothing changes.

    Args:
        modules: none of them inside another, and each only once.
    """
    for module in modules:
        assert "forward" not in vars(module), f"{type(module).__name__} is recomputed already"
        # The instance's own attribute hides the class's method, and is no part of the state dict.
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
