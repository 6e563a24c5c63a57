"""Registers Edge-SD-SR under its name."""

from srmodels.edge_sd_sr.config import EdgeSDSRConfig
from srmodels.edge_sd_sr.finetune import DecoderStage
from srmodels.edge_sd_sr.initial import EdgeSDSRInitialWeights
from srmodels.edge_sd_sr.network import EdgeSDSR
from srmodels.edge_sd_sr.stages import AutoencoderStage, DistillationStage, JointStage, TeacherStage
from srmodels.system import System

SYSTEM = System(
    name="edge_sd_sr",
    config=EdgeSDSRConfig,
    network=EdgeSDSR,
    stages={
        "autoencoder": AutoencoderStage,
        "joint": JointStage,
        "teacher": TeacherStage,
        "distillation": DistillationStage,
        "decoder": DecoderStage,
    },
    initial=EdgeSDSRInitialWeights,
)
