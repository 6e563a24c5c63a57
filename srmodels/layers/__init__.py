"""Blocks, and what is done to blocks, that more than one system uses."""

from srmodels.layers.patchgan import (
    DiscriminatorConfig,
    PatchDiscriminator,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from srmodels.layers.recompute import recompute_in_backward
from srmodels.layers.reparameterised import (
    CONVOLUTIONS,
    ReparameterisedConv,
    fuse,
    make_conv,
    start_near_identity,
)
from srmodels.layers.residual import ResBlock

__all__ = [
    "CONVOLUTIONS",
    "DiscriminatorConfig",
    "PatchDiscriminator",
    "ReparameterisedConv",
    "ResBlock",
    "fuse",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "make_conv",
    "recompute_in_backward",
    "start_near_identity",
]
