"""Registers RDSR under its name."""

from srmodels.rdsr.config import RDSRConfig
from srmodels.rdsr.network import RDSR
from srmodels.rdsr.stages import DiffusionStage, PerceptualFinetuning, PriorStage
from srmodels.system import System

SYSTEM = System(
    name="rdsr",
    config=RDSRConfig,
    network=RDSR,
    stages={
        "prior": PriorStage,
        "diffusion": DiffusionStage,
        "perceptual": PerceptualFinetuning,
    },
)
