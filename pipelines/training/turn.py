"""DeepSpeed around one turn of a stage: optimizer, precision, ZeRO, and its checkpoint files."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pipelines.config.schema import TrainConfig
from pipelines.training.extensions import load_extension
from pipelines.training.footprint import bucket_size
from pipelines.training.schedule import group_settings, learning_rate
from srmodels.optimizers import OPTIMIZERS, fit_state
from srmodels.stage import Stage

# DeepSpeed's converter looks for this key (`deepspeed.checkpoint.constants`).
_UNIVERSAL = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


@dataclass(frozen=True)
class MicroBatch:
    """Samples that go through forward and backward together, images on the device.

    Attributes:
        x_l: LR crops `[B, 3, h, w]` in [0, 1].
        x_h: HR crops `[B, 3, scale·h, scale·w]` in [0, 1].
        seeds: `[B]` int64, one for each sample, in main memory.
        weight: a factor of the loss, such that the mean of weight · loss over all micro-batches and
            ranks is the mean over the samples of the step.
    """

    x_l: Tensor
    x_h: Tensor
    seeds: Tensor
    weight: float


class Turn:
    """One turn of a stage's step: one optimizer and one backward.

    It needs an initialised process group.

    Args:
        universal: True where `load` will read a universal checkpoint; DeepSpeed must know it now.
    """

    def __init__(
        self,
        stage: Stage,
        train: TrainConfig,
        device: torch.device,
        *,
        num_micro_batches: int,
        universal: bool,
    ) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self.stage, self.train = stage, train
        groups = stage.parameter_groups()
        self.parameters = [p for group in groups for p in group.parameters]
        optimizer = OPTIMIZERS[train.optimizer].create(
            [
                {
                    "params": list(group.parameters),
                    "name": group.name,
                    "weight_decay": group_settings(train, group.name).weight_decay,
                }
                for group in groups
            ],
            train.learning_rate,
            device.type == "cuda",
        )
        load_extension()
        self.engine, *_ = deepspeed.initialize(
            model=stage,
            optimizer=optimizer,
            config=self._config(num_micro_batches, universal),
            dist_init_required=False,
        )
        #: Gradient norm of the last step, before clipping.
        self.gradient_norm = 0.0

    def _config(self, num_micro_batches: int, universal: bool) -> dict[str, Any]:
        train, zero = self.train, self.train.zero_stage
        bucket = bucket_size(sum(p.numel() for p in self.parameters))
        config: dict[str, Any] = {
            # Only its throughput figures depend on this number: shares may differ by a sample.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": num_micro_batches,
            "gradient_clipping": train.gradient_clip if zero else 0.0,
            "zero_optimization": {"stage": zero, "reduce_bucket_size": bucket},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
            "checkpoint": {"tag_validation": "Fail", "load_universal": universal},
        }
        if zero == 3:
            # Small parameters that stay gathered would not see weights that are swapped in.
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        if train.precision == "bf16":
            # Unlike "bf16", autocast leaves the weights in fp32, and so the EMA exact.
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        return config

    def step(
        self, micro_batches: Sequence[MicroBatch], step: int
    ) -> tuple[dict[str, Tensor], bool]:
        """Makes optimizer step number `step` (from 0).

        Returns:
            this rank's share of the losses, whose mean over the ranks is the mean over the samples;
            and False where the gradient was not finite, so that no rank took the step.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate(self.train, group["name"], step)
        total: dict[str, Tensor] = {}
        applied = True
        for number, micro in enumerate(micro_batches, 1):
            losses = self.engine(micro.x_l, micro.x_h, micro.seeds)
            self.engine.backward(losses["loss"] * micro.weight)
            if number == len(micro_batches) and not self.train.zero_stage:
                applied = self._clip()
            self.engine.step()
            for name, value in losses.items():
                share = value.detach() * (micro.weight / len(micro_batches))
                total[name] = total[name] + share if name in total else share
        if self.train.zero_stage:
            applied = self.engine.was_step_applied()
            self.gradient_norm = float(self.engine.get_global_grad_norm())
        return total, applied

    def _clip(self) -> bool:
        """Clips the gradients; returns False, and drops them, where their norm is not finite.

        DeepSpeed does this by itself under ZeRO only.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        self.gradient_norm = float(norm)
        if not math.isfinite(self.gradient_norm):
            self.engine.zero_grad()
            return False
        clip_grads_with_norm_(self.parameters, self.train.gradient_clip, norm)
        return True

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rate of the last step, by parameter group."""
        return {g["name"]: g["lr"] for g in self.engine.optimizer.param_groups}

    def save(self, folder: Path, tag: str) -> None:
        """Writes this rank's files into `folder/tag`. Every rank must call it."""
        self.engine.save_checkpoint(
            str(folder),
            tag=tag,
            client_state=_UNIVERSAL,
            save_latest=False,
            exclude_frozen_parameters=True,
        )

    def load(self, folder: Path, tag: str) -> None:
        """Loads trained weights and optimizer from `folder/tag`, which has no frozen weights."""
        optimizer = self.engine.optimizer
        settings = [_settings(group) for group in optimizer.param_groups]
        path, _ = self.engine.load_checkpoint(
            str(folder), tag=tag, load_module_strict=False, load_lr_scheduler_states=False
        )
        assert path is not None, f"{folder / tag} has no engine files"
        # From a universal checkpoint, ZeRO 3 gives all groups the settings of the first one, and
        # one step counter for all of them, which each group would then advance.
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)
        fit_state(optimizer)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
