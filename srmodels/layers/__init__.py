"""Blocks, and what is done to blocks, that more than one system uses."""

from srmodels.layers.patchgan import (
    PatchDiscriminator,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from srmodels.layers.recompute import recompute_in_backward
from srmodels.layers.residual import ResBlock

__all__ = [
    "PatchDiscriminator",
    "ResBlock",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "recompute_in_backward",
]
