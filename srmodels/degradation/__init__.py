"""Turns HR crops into LR crops: named presets, each a function of the crop and its draws."""

from srmodels.degradation.draws import Draws
from srmodels.degradation.options import Bicubic, Bsrgan, SecondOrder
from srmodels.degradation.presets import PRESETS, Options, degrade

__all__ = ["PRESETS", "Bicubic", "Bsrgan", "Draws", "Options", "SecondOrder", "degrade"]
