"""Imports what the processes of tests need, once, in the server that they are forked from."""

import torch
from torch import nn

import pipelines.retrain
from pipelines.training.worker import prepare_deepspeed
from tests.support.training import CPU

prepare_deepspeed(CPU)

# ZeRO asks for it, and it is compiled when it is imported.
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: E402, F401

# Jobs ask for these (tests/support/forked.py).
import mlflow  # noqa: E402, F401
import ray.train  # noqa: E402, F401

import pipelines.training.build  # noqa: E402, F401

# The first optimizer lets PyTorch import its compiler.
torch.optim.AdamW(nn.Linear(1, 1).parameters())
