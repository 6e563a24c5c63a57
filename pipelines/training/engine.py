"""DeepSpeed around one stage: optimizer, schedule, precision, ZeRO, and its checkpoint files."""

import logging
import math
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from pipelines.data.stream import Batch, to_unit
from pipelines.errors import UserError
from pipelines.schema import TrainConfig
from srmodels.system import Stage


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; the message names the samples of the step."""


class Engine:
    """Steps a stage. Needs an initialised `torch.distributed` process group."""

    def __init__(self, stage: Stage, train: TrainConfig, device: torch.device) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.stage, self.train, self.device = stage, train, device
        groups: list[dict[str, Any]] = [
            {
                "params": list(group.parameters),
                "lr": train.learning_rate * group.learning_rate_scale,
                "name": group.name,
            }
            for group in stage.parameter_groups()
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=train.learning_rate, weight_decay=train.weight_decay
        )
        self.engine, *_ = deepspeed.initialize(
            model=stage,
            optimizer=optimizer,
            lr_scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, self._learning_rate_factor),
            config=self._deepspeed_config(),
            dist_init_required=False,
        )

    def _deepspeed_config(self) -> dict[str, Any]:
        train = self.train
        config: dict[str, Any] = {
            "train_batch_size": train.batch_size,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": train.gradient_clip,
            "zero_optimization": {"stage": train.zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
            "checkpoint": {"tag_validation": "Fail"},
        }
        if train.precision == "bf16":
            # Unlike "bf16", autocast leaves the weights in fp32, and so the EMA exact.
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        return config

    def _learning_rate_factor(self, step: int) -> float:
        train = self.train
        warmup = min(1.0, (step + 1) / max(train.warmup_steps, 1))
        if train.schedule == "constant":
            return warmup
        return warmup * 0.5 * (1.0 + math.cos(math.pi * min(step / train.steps, 1.0)))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimizer step; returns this rank's losses, detached.

        Raises:
            NonFiniteLossError: before the weights are touched.
        """
        losses: dict[str, Tensor] = self.engine(
            to_unit(batch.x_l, self.device),
            to_unit(batch.x_h, self.device),
            batch.seeds.to(self.device),
        )
        if not torch.isfinite(losses["loss"]):
            raise NonFiniteLossError(
                f"the loss is {losses['loss'].item()} on samples {', '.join(batch.keys)}: lower "
                "train.learning_rate or look at these samples."
            )
        self.engine.backward(losses["loss"])
        self.engine.step()
        return {name: value.detach() for name, value in losses.items()}

    @property
    def learning_rates(self) -> dict[str, float]:
        """By parameter group."""
        return {g["name"]: g["lr"] for g in self.engine.optimizer.param_groups}

    @property
    def gradient_norm(self) -> float:
        return float(self.engine.get_global_grad_norm() or 0.0)

    def weights(self) -> dict[str, Tensor]:
        """Full-precision weights of every network, frozen ones too, from the live engine."""
        weights = {n: v.detach().float() for n, v in self.stage.network.state_dict().items()}
        assert weights.keys() == self.stage.network.state_dict().keys()
        return weights

    def save(self, checkpoint: Path) -> None:
        """The engine's own files; every rank must call it."""
        self.engine.save_checkpoint(str(checkpoint), tag="engine", save_latest=False)

    def load(self, checkpoint: Path) -> None:
        """Weights, optimizer and schedule of a checkpoint at the same world size."""
        path, _ = self.engine.load_checkpoint(str(checkpoint), tag="engine")
        assert path is not None, f"{checkpoint} has no engine files"
