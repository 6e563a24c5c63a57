"""What a stage will cost before it starts: parameters, GFLOPs, steps, samples, memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.data.dataset import dataset_exists, open_dataset
from pipelines.errors import UserError
from pipelines.schema import Config, TrainConfig
from pipelines.storage import absolute_location, resolve
from srmodels.system import load_system


@dataclass(frozen=True)
class NetworkCost:
    """Parameters by module, and GMACs of one inference on an LR tile of `tile` px."""

    parameters: dict[str, int]
    gmacs: float
    tile: int

    @property
    def table(self) -> str:
        rows = [f"  {name:<12} {count / 1e6:8.3f} M" for name, count in self.parameters.items()]
        return "\n".join(rows)


def network_cost(config: Config) -> NetworkCost:
    """Measured on the meta device: nothing is allocated."""
    with torch.device("meta"):
        network = load_system(config.system).build(config.networks).eval()
        x_l = torch.empty(1, 3, config.export.tile, config.export.tile)
    parameters = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in network.named_children()
    }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x_l)
    return NetworkCost(parameters, counter.get_total_flops() / 2e9, config.export.tile)


def stage_plan(config: Config, stage: str) -> str:
    """The plan of one stage, for people."""
    train = config.stages[stage].train
    cost = network_cost(config)
    with torch.device("meta"):
        network = load_system(config.system).build(config.networks)
        program = load_system(config.system).stages[config.stages[stage].kind](
            network, config.stages[stage].options
        )
    trained = sum(p.numel() for g in program.parameter_groups() for p in g.parameters)
    total = sum(cost.parameters.values())
    samples = train.steps * train.batch_size
    # Weights and EMA of everything; gradient and two Adam moments of what is trained, fp32.
    shared = 8 * total + 4 * trained * (1 if train.zero_stage < 2 else 1 / train.world_size)
    memory = shared + 8 * trained * (1 if train.zero_stage < 1 else 1 / train.world_size)
    lines = [
        f"stage {stage} ({config.recipe}, run {run_name(config, stage)}):",
        cost.table,
        f"  trained      {trained / 1e6:8.3f} M of {total / 1e6:.3f} M",
        f"  inference    {cost.gmacs:8.3f} GMACs = {2 * cost.gmacs:.3f} GFLOPs for an LR tile of "
        f"{cost.tile}x{cost.tile} px",
        f"  steps        {train.steps} of {train.batch_size} samples {_where(train)} = {samples} "
        f"samples{_epochs(config, samples)}",
        f"  memory       about {memory / 2**20:.0f} MiB per worker for weights, gradients and "
        f"optimizer (ZeRO {train.zero_stage}), plus activations",
    ]
    return "\n".join(lines)


def _where(train: TrainConfig) -> str:
    if train.workers == 0:
        return "in this process"
    return f"on {train.workers} worker{'s' * (train.workers > 1)}"


def run_name(config: Config, stage: str) -> str:
    """The fixed name of a stage's run."""
    return f"{config.run.name}-{stage}"


def run_directory(config: Config, name: str) -> Path:
    return resolve(config.run.storage) / name


def _epochs(config: Config, samples: int) -> str:
    if not dataset_exists(config.data, config.stream):
        return f" (no dataset in {absolute_location(config.data)} yet)"
    manifest = open_dataset(config.data, config.stream).manifest
    tiles = manifest.num_samples("train")
    return (
        f" = {samples / tiles:.1f} epochs of {len(manifest.shard_numbers('train'))} shards, "
        f"{tiles} training tiles"
    )


def plan_stages(config: Config, stages: Sequence[str]) -> str:
    """The plans of several stages, one after the other."""
    return "\n".join(stage_plan(config, stage) for stage in stages)


def chosen_stage(config: Config) -> str:
    """`stage`, which jobs/train.py cannot do without.

    Raises:
        UserError: it is not set.
    """
    if config.stage is None:
        raise UserError(f"which stage? Set stage= to one of {', '.join(config.stages)}.")
    return config.stage
