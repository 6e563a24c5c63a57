"""How an HR crop becomes an LR crop: named presets, each a function of the crop and a generator."""

from srmodels.degradation.options import Bicubic, Bsrgan, SecondOrder
from srmodels.degradation.presets import PRESETS, Options, degrade

__all__ = ["PRESETS", "Bicubic", "Bsrgan", "Options", "SecondOrder", "degrade"]
