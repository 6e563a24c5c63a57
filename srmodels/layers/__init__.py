"""Blocks that more than one system uses."""

from srmodels.layers.residual import ResBlock

__all__ = ["ResBlock"]
