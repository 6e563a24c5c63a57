"""Checks that hold for every stage that trains by turns."""

from collections.abc import Sequence

import torch

from srmodels.stage import Stage, train_only


def moved_by(stage: Stage, turn: str, batch: Sequence[torch.Tensor]) -> set[str]:
    """The networks of a stage that get a gradient in one of its turns."""
    turns = stage.turns()
    stage.network.zero_grad()
    train_only(turns[turn], turns.values())
    turns[turn](*batch)["loss"].backward()
    return {
        name.split(".")[0]
        for name, parameter in stage.network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
