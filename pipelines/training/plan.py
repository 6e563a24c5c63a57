"""Describes what a stage will do and what it will cost, before it starts."""

from collections.abc import Sequence

from pipelines.config.schema import Config, TrainConfig
from pipelines.data.dataset import dataset_exists, open_dataset
from pipelines.errors import UserError
from pipelines.models.build import stage_on_meta
from pipelines.models.cost import network_cost
from pipelines.runs.names import run_name
from pipelines.storage.paths import absolute_location
from pipelines.training.cost import training_cost
from pipelines.training.footprint import checkpoint_bytes, parameter_counts, rank_memory
from pipelines.training.schedule import group_settings
from pipelines.training.start import describe_start
from pipelines.training.teacher import Teacher
from srmodels.cost import NetworkCost, TrainingCost
from srmodels.stage import Stage

#: The keys of a job that trains, for its `--help`.
KEYS = ("data", "stream", "degradation", "shard.tile", "shard.val_tile", "train", "export.tile")


def stage_plan(config: Config, stage: str, teacher: Teacher | None = None) -> str:
    """Returns the plan of one stage as text: what it trains, for how long, and what that costs.

    Args:
        teacher: as in `training_cost`.

    Raises:
        UserError: the stage's networks and its crops do not fit together.
    """
    train, built = config.stages[stage].train, stage_on_meta(config, stage)
    inference, training = (
        network_cost(config.system, config.stages[stage].networks, config.export.tile),
        training_cost(config, stage, teacher),
    )
    samples = train.steps * train.batch_size
    sections = {
        "starts from": [describe_start(config, stage)],
        "parameters": _parameters(built),
        "inference": _inference(inference),
        "training": [
            f"{training.flops / 1e9:.3f} GFLOPs per sample, forward and backward; "
            f"{_petaflops(training.flops * samples)} PFLOPs in all"
        ],
        "steps": [
            f"{train.steps} of {train.batch_size} samples {_where(train)} = {samples} "
            f"samples{_epochs(config, samples)}",
            *_replayed(train),
        ],
        "learning rate": _learning_rates(built, train),
        "checkpoints": [_checkpoints(built, train)],
        "memory": _memory(built, train, training),
    }
    lines = [f"stage {stage} ({config.recipe}, run {run_name(config, stage)}):"]
    for title, (first, *others) in sections.items():
        lines += [f"  {title:<14} {first}", *(f"{'':<17}{line}" for line in others)]
    return "\n".join(lines)


def _parameters(stage: Stage) -> list[str]:
    """Returns a line for each network, and for each module of the stage's losses."""
    learns = {id(parameter) for parameter in stage.trained_parameters()}
    modules = dict(stage.network.named_children())
    modules |= {name: m for name, m in stage.named_children() if m is not stage.network}
    lines = []
    for name, module in modules.items():
        total = sum(p.numel() for p in module.parameters())
        trained = sum(p.numel() for p in module.parameters() if id(p) in learns)
        state = {0: "frozen", total: "trained"}.get(trained, f"{trained / 1e6:.3f} M trained")
        lines.append(f"{name:<13} {total / 1e6:9.3f} M  {state}")
    total, trained = parameter_counts(stage)
    return [*lines, f"{'all':<13} {total / 1e6:9.3f} M  {trained / 1e6:.3f} M trained"]


def _inference(cost: NetworkCost) -> list[str]:
    """Returns a line for each network that ships, and one for all of them."""
    lines = [
        f"{name:<13} {parameters / 1e6:9.3f} M  {cost.gmacs[name]:9.3f} GMACs"
        for name, parameters in cost.parameters.items()
    ]
    total = (
        f"{'all':<13} {cost.total_parameters / 1e6:9.3f} M  {cost.total_gmacs:9.3f} GMACs = "
        f"{2 * cost.total_gmacs:.3f} GFLOPs for an LR tile of {cost.tile}x{cost.tile} px"
    )
    return [*lines, total]


def _learning_rates(stage: Stage, train: TrainConfig) -> list[str]:
    """Returns a line for each schedule, with the groups that follow it."""
    programs: dict[str, list[str]] = {}
    for group in (g for turn in stage.turns().values() for g in turn.parameter_groups()):
        settings = group_settings(train, group.name)
        warmup = (
            f"linear warm-up over {settings.warmup_steps} steps"
            if settings.warmup_steps
            else "no warm-up"
        )
        shape = {
            "constant": "constant",
            "cosine": f"cosine to zero at step {train.steps}",
            "step": f"times {train.decay_factor:g} at {', '.join(map(str, train.decay_steps))}",
        }[settings.schedule]
        label = f"{settings.learning_rate:g} ({group.name})"
        if settings.start_step:
            warmup = f"from step {settings.start_step} on, {warmup}"
        programs.setdefault(f"{warmup}, {shape}", []).append(label)
    return [f"{', '.join(groups)}: {program}" for program, groups in programs.items()]


def _checkpoints(stage: Stage, train: TrainConfig) -> str:
    kept_weights = sum(p.numel() for p in stage.network.parameters())
    _, trained = parameter_counts(stage)
    size = checkpoint_bytes(
        kept_weights, trained, zero_stage=train.zero_stage, optimizer=train.optimizer
    )
    written = -(-train.steps // train.checkpoint_every)
    kept = min(train.keep_checkpoints, written)
    return (
        f"every {train.checkpoint_every} steps, about {_mib(size)} MiB each; "
        f"{kept} of {written} kept = {_mib(kept * size)} MiB"
    )


def _memory(stage: Stage, train: TrainConfig, cost: TrainingCost) -> list[str]:
    """Returns a table: a row for the fewest workers and the most, a column for each part."""
    heads, rows = [], []
    for ranks in sorted({max(train.min_workers, 1), train.world_size}):
        _, together = train.micro_batches(ranks)
        state = rank_memory(
            *parameter_counts(stage),
            zero_stage=train.zero_stage,
            ranks=ranks,
            precision=train.precision,
            optimizer=train.optimizer,
        )
        parts = {name: size for name, size in state.amounts.items() if size}
        parts["activations"] = cost.activation_bytes(together)
        parts["all"] = sum(parts.values())
        heads = [f"{name:>12}" for name in parts]
        label = f"{ranks} x {together} sample{'s' * (together > 1)}"
        rows.append(f"{label:<16}" + "".join(f"{_mib(size):>12}" for size in parts.values()))
    recomputed = ", activations recomputed" if train.activation_checkpointing else ""
    title = f"MiB of a worker, about (ZeRO {train.zero_stage}, {train.precision}{recomputed})"
    return [title, f"{'at once':<16}" + "".join(heads), *rows]


def _petaflops(flops: int) -> str:
    peta = flops / 1e15
    return f"{peta:,.3f}" if peta >= 1e-3 else f"{peta:.1e}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def _where(train: TrainConfig) -> str:
    if train.max_workers == 0:
        return "in this process"
    several = f"{train.min_workers} to " if train.min_workers < train.max_workers else ""
    return f"on {several}{train.max_workers} worker{'s' * (train.max_workers > 1)}"


def _epochs(config: Config, samples: int) -> str:
    if not dataset_exists(config.data, config.stream):
        return f" (no dataset in {absolute_location(config.data)} yet)"
    manifest = open_dataset(config.data, config.stream).manifest
    tiles = manifest.num_samples("train")
    return (
        f" = {samples / tiles:.1f} epochs of {len(manifest.shard_numbers('train'))} shards, "
        f"{tiles} training tiles"
    )


def _replayed(train: TrainConfig) -> list[str]:
    if train.replay is None:
        return []
    return [f"{train.replay:.0%} of them from photos that the starting weights were trained on"]


def plan_stages(config: Config, stages: Sequence[str]) -> str:
    """Returns the plans of several stages, one after the other."""
    return "\n".join(stage_plan(config, stage) for stage in stages)


def plan_chosen_stage(config: Config) -> str:
    """Returns the plan of the setting `stage`.

    Raises:
        UserError: `stage` is not set.
    """
    return stage_plan(config, chosen_stage(config))


def chosen_stage(config: Config) -> str:
    """Returns the setting `stage`.

    Raises:
        UserError: `stage` is not set.
    """
    if config.stage is None:
        raise UserError(f"which stage? Set stage= to one of {', '.join(config.stages)}.")
    return config.stage
