"""Blocks, and what is done to blocks, that more than one system uses."""

from srmodels.layers.recompute import recompute_in_backward
from srmodels.layers.residual import ResBlock

__all__ = ["ResBlock", "recompute_in_backward"]
