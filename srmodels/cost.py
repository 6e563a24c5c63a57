"""Counts what a network and a training step cost, by running them on tensors without values.

Inference runs on the meta device. Training runs on fake CPU tensors: the meta device knows no
autocast, and only attention that keeps the whole matrix of weights, which no real device does.
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
    """The cost of what ships, and of one inference on an LR tile of `tile` px: parameters and GMACs
    by module, and all GMACs."""

    parameters: dict[str, int]
    gmacs: dict[str, float]
    total_gmacs: float
    tile: int

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())


@dataclass(frozen=True)
class TrainingCost:
    """The cost of one forward and backward of a stage.

    Attributes:
        flops: per sample, of forward and backward together; recomputed activations count again.
        fixed_bytes: saved for backward whatever the number of samples: autocast's copies of the
            weights.
        bytes_per_sample: saved for backward per sample.
    """

    flops: int
    fixed_bytes: int
    bytes_per_sample: int

    def activation_bytes(self, samples: int) -> int:
        """Returns the bytes that are kept for backward when `samples` go through together."""
        return self.fixed_bytes + samples * self.bytes_per_sample


@dataclass(frozen=True)
class Measurement:
    """Findings on one forward and backward: FLOPs, the bytes that it saved in between, and the most
    of them that one of the watched modules saved."""

    flops: int
    saved_bytes: int
    largest_module_bytes: int


def network_cost(network: SRNetwork, tile: int) -> NetworkCost:
    """Returns what one inference on an LR tile `[1, 3, tile, tile]` costs.

    Args:
        network: on the meta device, where nothing is allocated. It is fused.
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
    """Runs a stage forward and backward at its crops' shapes; nothing is allocated.

    What is kept is what autograd saves, unique storages without weights. Where activations are
    recomputed, the largest module that is comes on top: backward holds one of them at a time.
    Parts take turns, so the largest counts. Other temporaries are left out. bf16 follows the CPU's
    autocast; CUDA's keeps norms in fp32 and saves somewhat more.

    Args:
        on_meta: the stage, its weights on the meta device.
        crop: side of an HR crop, pixels.
        samples: that go through together.
        step: the number of the step that is measured.
        bf16: under autocast to bfloat16.
        recompute: whether activations are recomputed in backward.

    Raises:
        ValueError, RuntimeError: the stage's networks and its crops do not fit together.
    """
    scale = on_meta.network.scale
    # Non-fake inputs: constants that the networks made on the meta device.
    with FakeTensorMode(allow_non_fake_inputs=True):
        stage: Stage = on_meta.to_empty(device="cpu")
        if stage.teacher is not None:
            stage.learn_from(stage.teacher.to_empty(device="cpu"))
        batches = [crops(number, crop, scale) for number in (1, 2)]
        recomputed = None
        if recompute:
            modules = stage.network.checkpointed_modules()
            recomputed = _measure_parts(stage, step, batches, bf16=bf16, watch=modules)
            recompute_in_backward(modules)
        costs = _part_costs(_measure_parts(stage, step, batches, bf16=bf16), recomputed)
    largest = max(costs, key=lambda cost: cost.activation_bytes(samples))
    return dataclasses.replace(largest, flops=sum(cost.flops for cost in costs))


def _measure_parts(
    stage: Stage,
    step: int,
    batches: list[tuple[Tensor, Tensor, Tensor]],
    *,
    bf16: bool,
    watch: Sequence[nn.Module] = (),
) -> list[list[Measurement]]:
    """Measures every part on each batch."""
    parts, found = stage.parts(), []
    for part in parts.values():
        train_only(part, parts.values())
        part.step = step
        found.append([measure(part, batch, bf16=bf16, watch=watch) for batch in batches])
    return found


def _part_costs(
    measured: list[list[Measurement]], recomputed: list[list[Measurement]] | None
) -> list[TrainingCost]:
    """Returns the cost of every part, from what it took for one sample and for two; where modules
    are `recomputed`, the largest of them comes on top."""
    costs = []
    for number, (one, two) in enumerate(measured):
        on_top = [m.largest_module_bytes for m in recomputed[number]] if recomputed else [0, 0]
        per_sample = two.saved_bytes + on_top[1] - one.saved_bytes - on_top[0]
        fixed = one.saved_bytes + on_top[0] - per_sample
        costs.append(TrainingCost(one.flops, fixed, per_sample))
    return costs


def crops(samples: int, crop: int, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a batch as a stage takes it: x_l `[B, 3, crop/scale, crop/scale]`, x_h `[B, 3, crop,
    crop]` and seeds `[B]`."""
    x_l = torch.rand(samples, 3, crop // scale, crop // scale)
    return x_l, torch.rand(samples, 3, crop, crop), torch.arange(samples)


def measure(
    stage: Stage,
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    bf16: bool,
    watch: Sequence[nn.Module] = (),
) -> Measurement:
    """Runs one forward and backward of a stage, on fake CPU tensors or real ones.

    Args:
        stage: its gradients are set.
        batch: x_l, x_h and seeds, as a stage takes them.
        bf16: under autocast to bfloat16.
        watch: modules, none inside another, whose share of the saved bytes is looked at.
    """
    saved = _SavedTensors(stage, watch)
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = stage(*batch)["loss"]
        loss.backward()
    saved.close()
    return Measurement(counter.get_total_flops(), *saved.total_and_largest())


class _SavedTensors:
    """Collects what autograd saves, by storage, all in all and by watched module."""

    def __init__(self, stage: Stage, watch: Sequence[nn.Module]) -> None:
        state = chain(stage.parameters(), stage.buffers())
        self.weights = {tensor.untyped_storage()._cdata for tensor in state}
        # Kept alive while counting: a freed storage's address may come back as another's.
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
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.all[storage._cdata] = storage
            if self.inside is not None:
                self.by_module[self.inside][storage._cdata] = storage
        return tensor

    def total_and_largest(self) -> tuple[int, int]:
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


#: The CPU's attention kernels, which torch's counter does not know, by the formulas of the others.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
