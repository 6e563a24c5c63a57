"""Computes learning rates from the step alone, so that a resumed run needs no scheduler's state."""

import math
from dataclasses import dataclass

from pipelines.config.schema import GroupConfig, TrainConfig


@dataclass(frozen=True)
class GroupSettings:
    """The settings of a parameter group: its own ones, else the stage's."""

    learning_rate: float
    weight_decay: float
    warmup_steps: int
    schedule: str
    start_step: int


def group_settings(train: TrainConfig, group: str) -> GroupSettings:
    """Returns the settings of the group called `group`."""
    own = train.groups.get(group, GroupConfig())
    shared = {
        name: getattr(train, name) if (value := getattr(own, name)) is None else value
        for name in ("learning_rate", "weight_decay", "warmup_steps", "schedule")
    }
    return GroupSettings(**shared, start_step=own.start_step)


def learning_rate(train: TrainConfig, group: str, step: int) -> float:
    """Returns the learning rate of a parameter group at step number `step` (from 0).

    It is zero before the group's `start_step`. From there on, it is the group's rate, times a
    linear warm-up, times the schedule:

    - `constant`: one;
    - `cosine`: half a cosine, which is zero at `train.steps` (Loshchilov and Hutter, arXiv
      1608.03983, without restarts);
    - `step`: `decay_factor`, once for each of `decay_steps` that is reached.
    """
    settings = group_settings(train, group)
    if step < settings.start_step:
        return 0.0
    warmup = min(1.0, (step - settings.start_step + 1) / max(settings.warmup_steps, 1))
    return settings.learning_rate * (warmup * _decay(train, settings.schedule, step))


def _decay(train: TrainConfig, schedule: str, step: int) -> float:
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return float(train.decay_factor ** sum(step >= boundary for boundary in train.decay_steps))
    return 0.5 * (1.0 + math.cos(math.pi * min(step / train.steps, 1.0)))
