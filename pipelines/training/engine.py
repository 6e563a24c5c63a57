"""Steps a stage: its turns one after the other, each with a DeepSpeed engine of its own."""

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
from pipelines.training.turn import MicroBatch, Turn
from srmodels.layers.recompute import recompute_in_backward
from srmodels.stage import Stage, train_only


@dataclass(frozen=True)
class Outcome:
    """The outcome of one step on this rank.

    Attributes:
        losses: this rank's share; their mean over the ranks is the mean over the step's samples.
        applied: False where a gradient was not finite; the same on all ranks.
    """

    losses: dict[str, Tensor]
    applied: bool


class Engine:
    """The optimizers of a stage, and its step. It needs an initialised process group.

    Args:
        stage: a stage on `device`.
        universal: True where `load` will read DeepSpeed's universal format.
    """

    def __init__(
        self, stage: Stage, train: TrainConfig, device: torch.device, *, universal: bool = False
    ) -> None:
        self.stage, self.train, self.device = stage, train, device
        # Decoded images are channels-last already. Another order would cost a copy, and on a CPU
        # a slower forward.
        self.memory_format = torch.channels_last if train.channels_last else torch.preserve_format
        turns = stage.turns()
        assert train.zero_stage < 3 or len(turns) == 1, "ZeRO 3 shards the weights of one turn"
        if train.activation_checkpointing:
            recompute_in_backward(stage.network.checkpointed_modules())
        if train.compile:
            for module in stage.network.children():
                module.compile()
        self.num_micro_batches, _ = train.micro_batches(dist.get_world_size())
        self.turns: dict[str, Turn] = {}
        for name, turn in turns.items():
            train_only(turn, turns.values())
            self.turns[name] = Turn(
                turn, train, device, num_micro_batches=self.num_micro_batches, universal=universal
            )
        if train.channels_last and not train.zero_stage:
            # Only now, since DeepSpeed broadcasts the initial weights as flat bytes. Under ZeRO
            # the weights are views of one flat buffer, so only the activations are channels-last.
            stage.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step(self, batch: Batch, step: int) -> Outcome:
        """Makes step number `step` (from 0) on this rank's share of the batch.

        Where the gradient of a turn is not finite on some rank, no rank steps that turn: its
        weights stay as they are, and the step counts as not applied.
        """
        micro_batches = self._micro_batches(batch)
        losses: dict[str, Tensor] = {}
        applied, before = True, [buffer.clone() for buffer in self.statistics.values()]
        for name, turn in self._each_turn():
            turn.stage.step = step
            found, taken = turn.step(micro_batches, step)
            losses |= {f"{name}/{k}" if name else k: v for k, v in found.items()}
            applied &= taken
        if "loss" not in losses:
            losses["loss"] = torch.stack([losses[f"{name}/loss"] for name in self.turns]).sum()
        self._settle(before, applied=applied)
        return Outcome(losses, applied)

    def _settle(self, before: Sequence[Tensor], *, applied: bool) -> None:
        """Sets the statistics after a step to their mean over the ranks.

        After a step that was not applied, they go back to their values `before` it: a value that
        is not finite would stay in them for ever.
        """
        buffers = list(self.statistics.values())
        if applied and buffers:
            # One message for all of them: a hundred small ones would cost far more.
            mean = parameters_to_vector(buffers)
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
            means = mean.split([buffer.numel() for buffer in buffers])
            before = [own.view_as(buffer) for own, buffer in zip(means, buffers, strict=True)]
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

    def _each_turn(self) -> Iterator[tuple[str, Turn]]:
        """Yields each turn while it alone trains."""
        for name, turn in self.turns.items():
            train_only(turn.stage, (other.stage for other in self.turns.values()))
            yield name, turn

    def _micro_batches(self, batch: Batch) -> list[MicroBatch]:
        x_l = to_unit(batch.x_l, self.device).to(memory_format=self.memory_format)
        x_h = to_unit(batch.x_h, self.device).to(memory_format=self.memory_format)
        scale = dist.get_world_size() * self.num_micro_batches / self.train.batch_size
        split = [tensor.tensor_split(self.num_micro_batches) for tensor in (x_l, x_h, batch.seeds)]
        # Every rank must call backward equally often. A rank that has no sample left sends one of
        # weight zero.
        return [
            MicroBatch(lr, hr, own, len(own) * scale)
            if len(own)
            else MicroBatch(x_l[:1], x_h[:1], batch.seeds[:1], 0.0)
            for lr, hr, own in zip(*split, strict=True)
        ]

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The tensors that training changes: trained parameters and statistics."""
        return self.trained | self.statistics

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """The running statistics of batch norms, by their names in the network's state dict.

        They are equal on all ranks after each step.
        """
        buffers = dict(self.stage.network.named_buffers())
        kept = [n for n in self.stage.network.state_dict() if n in buffers]
        return {n: buffers[n] for n in kept if buffers[n].is_floating_point()}

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that some turn trains, by their names in the network's state dict."""
        trained = {id(p) for turn in self.turns.values() for p in turn.parameters}
        return {n: p for n, p in self.stage.network.named_parameters() if id(p) in trained}

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rate of the last step, by parameter group."""
        return {k: v for turn in self.turns.values() for k, v in turn.learning_rates.items()}

    @property
    def gradient_norms(self) -> dict[str, float]:
        """The gradient norm of the last step, before clipping, by turn."""
        return {name: turn.gradient_norm for name, turn in self.turns.items()}

    def weights(self) -> dict[str, Tensor]:
        """Returns the live fp32 weights of every network, frozen ones too, in main memory.

        Every rank must call it. Rank 0 gets all weights, and the others get an empty dict.
        """
        weights = {}
        for name, value in self.stage.network.state_dict(keep_vars=True).items():
            # Under ZeRO 3 each rank holds a slice of a parameter. Elsewhere this does nothing.
            with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
                if dist.get_rank() == 0:
                    weights[name] = _copied(value)
        return weights

    def save(self, folder: Path) -> None:
        """Writes DeepSpeed's files into `folder`. Every rank must call it."""
        for name, turn in self._each_turn():
            turn.save(folder, _tag(name))

    def load(self, folder: Path) -> None:
        """Loads trained weights and optimizers from `folder`. Every rank must call it."""
        for name, turn in self._each_turn():
            turn.load(folder, _tag(name))

    @property
    def tags(self) -> list[str]:
        """The folders of a checkpoint that hold DeepSpeed's files."""
        return [_tag(name) for name in self.turns]


def _copied(value: Tensor) -> Tensor:
    """Returns a contiguous fp32 copy in main memory."""
    copy = torch.empty(value.shape, dtype=torch.float32)
    return copy.copy_(value.detach())


def _tag(turn: str) -> str:
    return f"engine-{turn}" if turn else "engine"
