"""Registers F2SRGAN under its name."""

from srmodels.f2srgan.config import F2SRGANConfig
from srmodels.f2srgan.network import F2SRGAN
from srmodels.f2srgan.stages import PerceptualStage
from srmodels.system import System

SYSTEM = System(
    name="f2srgan",
    config=F2SRGANConfig,
    network=F2SRGAN,
    stages={"perceptual": PerceptualStage},
)
