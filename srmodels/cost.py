"""Counts what inference and a training step cost, by running both on tensors without values.

Inference runs on the meta device, and training on fake CPU tensors. The meta device has no
autocast, and its attention keeps the whole matrix of weights, which no real device does.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensorMode,
)
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from srmodels.layers import recompute_in_backward
from srmodels.network import SRNetwork
from srmodels.stage import Stage, train_only


@dataclass(frozen=True)
class NetworkCost:
    """The cost of one inference on an LR tile of `tile` px.

    Attributes:
        parameters: number of parameters of each module that ships, by name.
        gmacs: GMACs of each module that ships, by name.
        total_gmacs: GMACs of the whole inference.
    """

    parameters: dict[str, int]
    gmacs: dict[str, float]
    total_gmacs: float
    tile: int

    @property
    def total_parameters(self) -> int:
        """The number of parameters that ship."""
        return sum(self.parameters.values())


@dataclass(frozen=True)
class TrainingCost:
    """The cost of one forward and backward of a stage.

    Attributes:
        flops: FLOPs of forward and backward for one sample; recomputed activations count again.
        model_flops: the same, but recomputed activations count once. MFU is made of it (Chowdhery
            et al., arXiv 2204.02311).
        fixed_bytes: bytes saved for backward, independent of the number of samples: autocast's
            copies of the weights.
        bytes_per_sample: bytes saved for backward for one sample.
    """

    flops: int
    model_flops: int
    fixed_bytes: int
    bytes_per_sample: int

    def activation_bytes(self, samples: int) -> int:
        """Returns the bytes saved for backward when `samples` go through together."""
        return self.fixed_bytes + samples * self.bytes_per_sample


@dataclass(frozen=True)
class Measurement:
    """The measurement of one forward and backward.

    Attributes:
        saved_bytes: bytes that forward saved for backward.
        largest_module_bytes: the most of them that one watched module saved.
    """

    flops: int
    saved_bytes: int
    largest_module_bytes: int


def network_cost(network: SRNetwork, tile: int) -> NetworkCost:
    """Counts the cost of one inference on an LR tile `[1, 3, tile, tile]`.

    Args:
        network: networks on the meta device, where nothing is allocated. This function fuses them.
    """
    shipped = network.fuse().inference_modules()
    x_l = torch.empty(1, 3, tile, tile, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x_l)
    flops = counter.get_flop_counts()
    return NetworkCost(
        {name: sum(p.numel() for p in module.parameters()) for name, module in shipped.items()},
        {n: sum(flops.get(f"{type(network).__name__}.{n}", {}).values()) / 2e9 for n in shipped},
        counter.get_total_flops() / 2e9,
        tile,
    )


def training_cost(
    on_meta: Stage, *, crop: int, samples: int, step: int, bf16: bool, recompute: bool
) -> TrainingCost:
    """Counts the cost of a stage's forward and backward on crops; nothing is allocated.

    The saved bytes are those of autograd: every storage once, without the weights. Where
    activations are recomputed, the largest recomputed module is added, since backward holds one of
    them at a time. Turns follow each other, so only the one with the most bytes counts. Other
    temporary tensors do not count. bf16 follows the CPU's autocast. CUDA's keeps norms in fp32, and
    saves somewhat more.

    Args:
        on_meta: a stage whose weights are on the meta device.
        crop: side of an HR crop, pixels.
        samples: number of samples that go through together.
        step: number of the measured step.
        bf16: whether forward runs under autocast to bfloat16.
        recompute: whether activations are recomputed in backward.

    Raises:
        ValueError, RuntimeError: the stage's networks and its crops do not fit together.
    """
    scale = on_meta.network.scale
    # The networks made constants on the meta device, which are not fake tensors.
    with FakeTensorMode(allow_non_fake_inputs=True):
        stage: Stage = on_meta.to_empty(device="cpu")
        if stage.teacher is not None:
            stage.learn_from(stage.teacher.to_empty(device="cpu"))
        batches = [crops(number, crop, scale) for number in (1, 2)]
        recomputed = None
        if recompute:
            modules = stage.network.checkpointed_modules()
            recomputed = _measure_turns(stage, step, batches, bf16=bf16, watch=modules)
            recompute_in_backward(modules)
        costs = _turn_costs(_measure_turns(stage, step, batches, bf16=bf16), recomputed)
    largest = max(costs, key=lambda cost: cost.activation_bytes(samples))
    return dataclasses.replace(
        largest,
        flops=sum(cost.flops for cost in costs),
        model_flops=sum(cost.model_flops for cost in costs),
    )


def _measure_turns(
    stage: Stage,
    step: int,
    batches: list[tuple[Tensor, Tensor, Tensor]],
    *,
    bf16: bool,
    watch: Sequence[nn.Module] = (),
) -> list[list[Measurement]]:
    """Measures every turn on both batches: one list for each turn.

    The bytes of the second batch are all that is wanted, so its backward is left out.
    """
    turns, found = stage.turns(), []
    for turn in turns.values():
        train_only(turn, turns.values())
        turn.step = step
        one, two = batches
        found.append(
            [
                measure(turn, one, bf16=bf16, watch=watch),
                measure(turn, two, bf16=bf16, watch=watch, backward=False),
            ]
        )
    return found


def _turn_costs(
    measured: list[list[Measurement]], recomputed: list[list[Measurement]] | None
) -> list[TrainingCost]:
    """Returns the cost of every turn, from its measurements on one sample and on two.

    Args:
        recomputed: the same measurements without recomputing, with the recomputed modules watched;
            the largest of these modules is added.
    """
    costs = []
    for number, (one, two) in enumerate(measured):
        on_top = [m.largest_module_bytes for m in recomputed[number]] if recomputed else [0, 0]
        per_sample = two.saved_bytes + on_top[1] - one.saved_bytes - on_top[0]
        fixed = one.saved_bytes + on_top[0] - per_sample
        once = recomputed[number][0].flops if recomputed else one.flops
        costs.append(TrainingCost(one.flops, once, fixed, per_sample))
    return costs


def crops(samples: int, crop: int, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a random batch in [0, 1], with `B` = `samples`.

    Returns:
        x_l `[B, 3, crop/scale, crop/scale]`, x_h `[B, 3, crop, crop]` and seeds `[B]`.
    """
    x_l = torch.rand(samples, 3, crop // scale, crop // scale)
    return x_l, torch.rand(samples, 3, crop, crop), torch.arange(samples)


def measure(
    stage: Stage,
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    bf16: bool,
    watch: Sequence[nn.Module] = (),
    backward: bool = True,
) -> Measurement:
    """Measures one forward and backward of a stage, on fake CPU tensors or real ones.

    Args:
        stage: a stage on the CPU; its gradients are set.
        batch: x_l, x_h and seeds, see `Stage.forward`.
        bf16: whether forward runs under autocast to bfloat16.
        watch: modules, none inside another, whose saved bytes are compared.
        backward: False to measure the forward alone.
    """
    saved = _SavedTensors(stage, watch)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = stage(*batch)["loss"]
        if backward:
            loss.backward()
    saved.close()
    return Measurement(counter.get_total_flops(), *saved.total_and_largest())


class _SavedTensors:
    """The storages that autograd saves: all of them, and those of each watched module."""

    def __init__(self, stage: Stage, watch: Sequence[nn.Module]) -> None:
        state = chain(stage.parameters(), stage.buffers())
        self.weights = {tensor.untyped_storage()._cdata for tensor in state}
        # Storages stay alive while they are counted: another one could get a freed one's address.
        self.all: dict[int, torch.UntypedStorage] = {}
        self.by_module: dict[nn.Module, dict[int, torch.UntypedStorage]] = {m: {} for m in watch}
        self.inside: nn.Module | None = None
        self.handles = [m.register_forward_pre_hook(self._enter) for m in watch]
        self.handles += [m.register_forward_hook(self._leave) for m in watch]

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        assert self.inside is None
        self.inside = module

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.inside = None

    def pack(self, tensor: Tensor) -> Tensor:
        """Notes a tensor that autograd saves, and returns it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.all[storage._cdata] = storage
            if self.inside is not None:
                self.by_module[self.inside][storage._cdata] = storage
        return tensor

    def total_and_largest(self) -> tuple[int, int]:
        """Returns the bytes of all saved storages, and those of the largest watched module."""
        sizes = [_bytes(found) for found in self.by_module.values()]
        return _bytes(self.all), max(sizes, default=0)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def _bytes(storages: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in storages.values())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(
        sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-untyped-call]
    )


#: FLOP formulas for the CPU's attention kernels, which torch's counter does not know.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
