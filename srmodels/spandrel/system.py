"""Registers spandrel's architectures as a system, for the stages that every system has.

    system: spandrel
    networks: {architecture: SPAN, scale: 4, options: {num_in_ch: 3, num_out_ch: 3}}
    init: {checkpoint: spanx4_ch48.pth}  # or none, to train from scratch
    stages:
      pixel: {train: {steps: 100000, learning_rate: 5.0e-4}}
    stage1: [pixel]

It needs the extra: `pip install -e '.[spandrel]'`, with the torchvision that belongs to your torch.
"""

from srmodels.spandrel.config import SpandrelConfig
from srmodels.spandrel.initial import SpandrelInitialWeights
from srmodels.spandrel.network import SpandrelNetwork
from srmodels.system import System

SYSTEM = System(
    name="spandrel",
    config=SpandrelConfig,
    network=SpandrelNetwork,
    stages={},
    initial=SpandrelInitialWeights,
)
