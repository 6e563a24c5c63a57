"""Steps a stage: its parts one after the other, each with a DeepSpeed engine of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from pipelines.config.schema import TrainConfig
from pipelines.data.stream import Batch, to_unit
from pipelines.training.part import MicroBatch, Part
from srmodels.layers.recompute import recompute_in_backward
from srmodels.stage import Stage, train_only


@dataclass(frozen=True)
class Outcome:
    """What one step did. The mean of `losses` over the ranks is that over the step's samples;
    `applied` is the same on all of them."""

    losses: dict[str, Tensor]
    applied: bool


class Engine:
    """Steps a stage. Needs an initialised `torch.distributed` process group.

    Args:
        universal: whether the checkpoint that will be loaded is in DeepSpeed's universal format.
    """

    def __init__(
        self, stage: Stage, train: TrainConfig, device: torch.device, *, universal: bool = False
    ) -> None:
        self.stage, self.train, self.device = stage, train, device
        # Batches come as their images were decoded; to bring them into order would cost a copy,
        # and on a CPU a slower forward.
        self.memory_format = torch.channels_last if train.channels_last else torch.preserve_format
        parts = stage.parts()
        assert train.zero_stage < 3 or len(parts) == 1, "ZeRO 3 shards the weights of one part"
        if train.activation_checkpointing:
            recompute_in_backward(stage.network.checkpointed_modules())
        if train.compile:
            for module in stage.network.children():
                module.compile()
        self.num_micro_batches, _ = train.micro_batches(dist.get_world_size())
        self.parts: dict[str, Part] = {}
        for name, part in parts.items():
            train_only(part, parts.values())
            self.parts[name] = Part(
                part, train, device, num_micro_batches=self.num_micro_batches, universal=universal
            )
        if train.channels_last and not train.zero_stage:
            # Not before: DeepSpeed broadcasts initial weights as flat bytes. Under ZeRO they are
            # views of one flat buffer, and only the activations are in this format.
            stage.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step(self, batch: Batch, step: int) -> Outcome:
        """Step number `step` (from 0) on this rank's share of the batch.

        A part whose gradient is not finite on some rank takes its step on none: its weights stay,
        and the step counts as not applied.
        """
        micro_batches = self._micro_batches(batch)
        losses: dict[str, Tensor] = {}
        applied, before = True, [buffer.clone() for buffer in self.statistics.values()]
        for name, part in self._turns():
            part.stage.step = step
            found, taken = part.step(micro_batches, step)
            losses |= {f"{name}/{k}" if name else k: v for k, v in found.items()}
            applied &= taken
        if "loss" not in losses:
            losses["loss"] = torch.stack([losses[f"{name}/loss"] for name in self.parts]).sum()
        self._settle(before, applied=applied)
        return Outcome(losses, applied)

    def _settle(self, before: Sequence[Tensor], *, applied: bool) -> None:
        """Statistics after a step: what the ranks saw on average, or, if it was not applied, what
        they were, since what is not finite would stay in them for good."""
        buffers = list(self.statistics.values())
        if applied and buffers:
            # All at once: a message for each of a hundred small ones would cost more than they do.
            mean = parameters_to_vector(buffers)
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
            parts = mean.split([buffer.numel() for buffer in buffers])
            before = [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)]
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

    def _turns(self) -> Iterator[tuple[str, Part]]:
        """Each part, while it alone is what trains."""
        for name, part in self.parts.items():
            train_only(part.stage, (other.stage for other in self.parts.values()))
            yield name, part

    def _micro_batches(self, batch: Batch) -> list[MicroBatch]:
        x_l = to_unit(batch.x_l, self.device).to(memory_format=self.memory_format)
        x_h = to_unit(batch.x_h, self.device).to(memory_format=self.memory_format)
        seeds = batch.seeds.to(self.device)
        scale = dist.get_world_size() * self.num_micro_batches / self.train.batch_size
        split = [tensor.tensor_split(self.num_micro_batches) for tensor in (x_l, x_h, seeds)]
        # A rank whose share is a sample smaller may run out: every rank must go as often through
        # backward, so it sends a sample that counts nothing.
        return [
            MicroBatch(lr, hr, own, len(own) * scale)
            if len(own)
            else MicroBatch(x_l[:1], x_h[:1], seeds[:1], 0.0)
            for lr, hr, own in zip(*split, strict=True)
        ]

    @property
    def averaged(self) -> dict[str, Tensor]:
        """What is trained, and what networks gather meanwhile."""
        return self.trained | self.statistics

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """What batch norms gather, by its names in the network's state dict; the same on all ranks
        after each step."""
        buffers = dict(self.stage.network.named_buffers())
        kept = [n for n in self.stage.network.state_dict() if n in buffers]
        return {n: buffers[n] for n in kept if buffers[n].is_floating_point()}

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that some part trains, by their names in the network's state dict."""
        trained = {id(p) for part in self.parts.values() for p in part.parameters}
        return {n: p for n, p in self.stage.network.named_parameters() if id(p) in trained}

    @property
    def learning_rates(self) -> dict[str, float]:
        """By parameter group."""
        return {k: v for part in self.parts.values() for k, v in part.learning_rates.items()}

    @property
    def gradient_norms(self) -> dict[str, float]:
        """Of the last step, before clipping, by part."""
        return {name: part.gradient_norm for name, part in self.parts.items()}

    def weights(self) -> dict[str, Tensor]:
        """Full-precision weights of every network, frozen ones too, from the live engine, in main
        memory. Every rank must call it; rank 0 gets them, the others nothing."""
        weights = {}
        for name, value in self.stage.network.state_dict(keep_vars=True).items():
            # Under ZeRO 3 each rank holds a part of a parameter; this does nothing elsewhere.
            with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
                if dist.get_rank() == 0:
                    weights[name] = _copied(value)
        return weights

    def save(self, folder: Path) -> None:
        """The engines' own files; every rank must call it."""
        for name, part in self._turns():
            part.save(folder, _tag(name))

    def load(self, folder: Path) -> None:
        """Trained weights and optimizers of a checkpoint; every rank must call it."""
        for name, part in self._turns():
            part.load(folder, _tag(name))

    @property
    def tags(self) -> list[str]:
        """The folders of a checkpoint that hold DeepSpeed's files."""
        return [_tag(name) for name in self.parts]


def _copied(value: Tensor) -> Tensor:
    """In fp32, in main memory, in the usual memory order; nothing else refers to it."""
    copy = torch.empty(value.shape, dtype=torch.float32)
    return copy.copy_(value.detach())


def _tag(part: str) -> str:
    return f"engine-{part}" if part else "engine"
