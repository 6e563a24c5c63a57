"""How an HR crop becomes an LR crop: named presets, each a function of the crop and a generator."""

from srmodels.degradation.presets import PRESETS, degrade

__all__ = ["PRESETS", "degrade"]
