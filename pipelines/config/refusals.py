"""Refuses configurations whose types are right, but whose values cannot work."""

import dataclasses
import math
from typing import Any

from pipelines.config.addresses import check_place
from pipelines.config.durations import seconds
from pipelines.config.keys import Place
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config, ExportConfig, ShardConfig, TrainConfig
from pipelines.config.wording import shown
from pipelines.errors import UserError, first_line, listing
from srmodels.edge.target import DELEGATES, TARGETS
from srmodels.meta import on_meta
from srmodels.metrics import SMALLEST
from srmodels.network import SRNetwork
from srmodels.optimizers import OPTIMIZERS
from srmodels.system import System

#: Endings of the runs that keep the weights from outside that a stage starts from, or learns from.
KEPT_START, KEPT_TEACHER = KEPT = "-init", "-teacher"
#: The largest number of bytes in a name that becomes a folder's: 100 letters of ASCII.
LONGEST_NAME = 100
_PUNCTUATION = str.maketrans("", "", "-_.")
#: Whole numbers end here, in files and in the libraries that count with them.
LARGEST = 2**63 - 1
#: The largest number among the settings of networks, stages and degradations.
LARGEST_SIZE = 2**20
#: The largest width and height of a WebP image, in pixels.
MAX_TILE = 16383

#: The networks that were built for checks, and the largest number that is kept.
_BUILT: dict[tuple[type, type, str], SRNetwork] = {}
_MOST_BUILT = 16

#: The sections that describe networks, stages and degradations.
_SIZES = {"networks", "options"}
_SECTIONS = tuple(
    item.type
    for item in dataclasses.fields(Config)
    if isinstance(item.type, type) and dataclasses.is_dataclass(item.type)
)


def check(config: Config, system: System) -> None:
    """Checks every value and every combination of values.

    Raises:
        UserError: a value cannot work; the message names its key and says how to set it.
    """
    check_values(config)
    for name, stage in config.stages.items():
        _check_values(stage.train, f"stages.{name}.train.")
    _check_stages(config)
    network = _on_meta(system, config.networks)
    lr_multiple = network.size_multiple
    _check_shard(config.shard, config.networks.scale * lr_multiple)
    _check_export(config.export, lr_multiple)
    if not all(1 <= size <= MAX_TILE for size in config.evaluate.latency_sizes):
        raise UserError(f"evaluate.latency_sizes must be 1 to {MAX_TILE} px each.")
    for name, stage in config.stages.items():
        same = stage.networks == config.networks
        own = network if same else _on_meta(system, stage.networks)
        _check_stage(config, name, system, own)


def check_values(config: Config) -> None:
    """Checks each value on its own. This much must hold for a configuration in a file, too, which
    another version may have written.

    Raises:
        UserError: a value cannot work; the message names its key.
    """
    _check_leaves(dataclasses.asdict(config))
    _check_values(config)
    if config.notify.stale_after is not None:
        seconds("notify.stale_after", config.notify.stale_after)


def _check_shard(shard: ShardConfig, hr_multiple: int) -> None:
    if not 0 < shard.val_fraction < 1:
        raise UserError("shard.val_fraction must lie between 0 and 1.")
    if shard.overlap >= shard.tile:
        raise UserError(f"shard.overlap={shard.overlap} must be less than shard.tile={shard.tile}.")
    if max(shard.tile, shard.val_tile) > MAX_TILE:
        raise UserError(
            f"tiles can be {MAX_TILE} px wide at most, the limit of their codec (WebP)."
        )
    for name in ("tile", "val_tile"):
        if getattr(shard, name) % hr_multiple:
            raise UserError(f"shard.{name} must be a multiple of {hr_multiple} HR pixels.")


def _check_stage(config: Config, name: str, system: System, network: SRNetwork) -> None:
    """Checks a stage; its class decides anew which weights of the networks learn."""
    stage, where = config.stages[name], f"stages.{name}.train"
    train = stage.train
    if network.scale != config.networks.scale:
        raise UserError(
            f"stages.{name}.networks.scale={network.scale} must be networks.scale="
            f"{config.networks.scale}: all stages of a recipe see the same LR images."
        )
    hr_multiple = network.scale * network.size_multiple
    _check_train(where, train, config.shard.tile, hr_multiple)
    kind = system.stage(stage.kind)
    try:
        with on_meta():
            turns = kind(network, stage.options).turns()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"stages.{name}.options: {first_line(error)}") from None
    _check_teacher(config, name, takes_one=kind.takes_teacher)
    if len(turns) > 1 and train.zero_stage == 3:
        raise UserError(
            f"{where}.zero_stage must be 2 or less: the stage has the turns "
            f"{listing(turns, ' and ')}, and ZeRO 3 shards the weights of one alone."
        )
    names = [group.name for turn in turns.values() for group in turn.parameter_groups()]
    _check_groups(where, train, names)
    if train.activation_checkpointing and not network.checkpointed_modules():
        raise UserError(
            f"{where}.activation_checkpointing must be false: the networks of "
            f"{system.name} name no modules to recompute."
        )
    _check_profile(where, train.profile)
    if train.validate_every:
        _check_validation(where, train, config, hr_multiple)


def _check_values(values: Any, prefix: str = "") -> None:
    """Checks each key against the bounds and choices that the schema gives it."""
    for item in dataclasses.fields(values):
        name, value = prefix + item.name, getattr(values, item.name)
        if isinstance(value, _SECTIONS):
            _check_values(value, f"{name}.")
            continue
        minimum, above = item.metadata.get("minimum"), item.metadata.get("above")
        choices = item.metadata.get("choices")
        if value is None:
            if item.type is Any and item.default is not None:
                raise UserError(f"{name} is null, but needs a value: leave it out for its default.")
            continue
        if minimum is not None and not value >= minimum:
            raise UserError(f"{name} must be at least {minimum}, not {value}.")
        if above is not None and not value > above:
            raise UserError(f"{name} must be greater than {above}, not {value}.")
        maximum, place = item.metadata.get("maximum"), item.metadata.get("place")
        if maximum is not None and not value <= maximum:
            raise UserError(f"{name} must be at most {maximum}, not {value}.")
        if choices is not None and value not in choices:
            raise UserError(f"{name} is {shown(value)}: use one of {listing(choices)}.")
        if place is not None:
            check_place(name, value, place)


def _check_leaves(value: Any, name: str = "") -> None:
    """Refuses values that no file or library can hold, wherever they stand, and names them."""
    if isinstance(value, dict):
        for part, child in value.items():
            _check_leaves(child, f"{name}.{part}" if name else str(part))
    elif isinstance(value, list | tuple):
        for number, child in enumerate(value):
            _check_leaves(child, f"{name}[{number}]")
    elif isinstance(value, str):
        _check_text(name, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, not {value}.")
    elif isinstance(value, int):
        largest = LARGEST_SIZE if set(name.split(".")) & _SIZES else LARGEST
        if abs(value) > largest:
            raise UserError(f"{name} is too large: numbers there end at {largest}.")
    elif value is not None and not isinstance(value, float):
        raise UserError(f"{name} is of type {type(value).__name__}: use text or a number.")


def _check_text(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{name} is {shown(value)}, which is no Unicode text: correct it."
        ) from None
    if "\0" in value:
        raise UserError(f"{name} is {shown(value)}: remove the character \\0, which no file has.")


def is_name(text: object) -> bool:
    """Returns True for text of letters, digits, '-', '_' and '.' that can be a folder's name."""
    if not isinstance(text, str) or not text.translate(_PUNCTUATION).isalnum():
        return False
    return len(text.encode()) <= LONGEST_NAME


def _check_stages(config: Config) -> None:
    for job in ("stage1", "stage2"):
        for name in getattr(config, job):
            if name not in config.stages:
                raise UserError(f"{job} names stage {shown(name)}, which the recipe does not have.")
    if config.stage is not None and config.stage not in config.stages:
        raise UserError(
            f"the recipe has no stage {shown(config.stage)}: use {listing(config.stages)}."
        )
    for name, stage in config.stages.items():
        if name.endswith(KEPT):
            raise UserError(
                f"stage '{name}' must not end in {' or '.join(KEPT)}: the weights from outside "
                "that a stage uses are kept in runs of such names."
            )
        before = stage.init_from
        if before is not None and before not in config.stages:
            _check_reference(f"stages.{name}.init_from", before, config)
            if not ModelReference.parse(before).is_model:
                raise UserError(
                    f"stages.{name}.init_from is {shown(before)}, whose weights do not fit a "
                    "system's networks: name a stage of the recipe, a run, a bundle or a "
                    "registered model."
                )


def _on_meta(system: System, networks: Any) -> SRNetwork:
    """Returns the networks on the meta device. Equal ones are built once, which takes longer than
    all other checks: a job and its steps load the same configuration several times."""
    key = system.network, type(networks), repr(networks)
    if (built := _BUILT.get(key)) is None:
        try:
            with on_meta():
                built = system.build(networks)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"the networks cannot be built: {first_line(error)}") from None
        if len(_BUILT) >= _MOST_BUILT:
            _BUILT.clear()
        _BUILT[key] = built
    return built


def _check_teacher(config: Config, name: str, *, takes_one: bool) -> None:
    """Refuses a missing teacher, one that the stage would ignore, and one that does not exist."""
    teacher = config.stages[name].teacher
    if teacher is None:
        if takes_one:
            raise UserError(
                f"stage '{name}' learns from a teacher: set stages.{name}.teacher to a stage of "
                "the recipe, a model, spandrel:FILE or a peer."
            )
        return
    if not takes_one:
        raise UserError(
            f"stages.{name}.teacher={shown(teacher)} would be ignored: a stage of kind "
            f"'{config.stages[name].kind}' learns from none."
        )
    if teacher == name:
        raise UserError(f"stages.{name}.teacher is the stage itself: name another one.")
    if teacher not in config.stages:
        _check_reference(f"stages.{name}.teacher", teacher, config)


def _check_reference(key: str, text: str, config: Config) -> None:
    check_place(key, text, Place.MODEL)
    if not ModelReference.parse(text).is_plausible:
        raise UserError(
            f"{key} is {shown(text)}, which is no stage of the recipe ({listing(config.stages)}) "
            "and no model."
        )


def _check_export(export: ExportConfig, lr_multiple: int) -> None:
    if export.tile % lr_multiple:
        raise UserError(f"export.tile must be a multiple of {lr_multiple} LR pixels.")
    for key, names, known in (
        ("export.artifacts", export.artifacts, TARGETS),
        ("export.delegates", export.delegates, DELEGATES),
    ):
        for name in names:
            if name not in known:
                raise UserError(f"{key} names {shown(name)}: use some of {listing(known)}, or [].")
    if export.latency_budget_ms is not None and not export.artifacts:
        raise UserError("export.latency_budget_ms judges artifacts: name some in export.artifacts.")
    if export.candidates and export.latency_budget_ms is None:
        raise UserError("export.candidates needs export.latency_budget_ms, which chooses of them.")


def _check_train(where: str, train: TrainConfig, tile: int, hr_multiple: int) -> None:
    check_workers(train)
    if train.workers == 0 and train.accelerator == "cuda":
        raise UserError("train.workers=0 trains on the CPU: set train.workers=1 for a GPU.")
    elastic = train.min_workers != train.max_workers
    if elastic and train.zero_stage and not OPTIMIZERS[train.optimizer].can_be_reshaped:
        raise UserError(
            f"{where}: under ZeRO {train.zero_stage} the state of optimizer={train.optimizer} "
            "belongs to one number of workers, so train.workers cannot be a range: set a number, "
            "zero_stage=0, or optimizer=adamw."
        )
    schedules = {train.schedule, *(group.schedule for group in train.groups.values())}
    if "step" in schedules and not train.decay_steps:
        raise UserError(f"{where}: schedule=step needs decay_steps, where the rate drops.")
    if train.crop % hr_multiple or train.crop > tile:
        raise UserError(
            f"{where}.crop={train.crop} must be a multiple of {hr_multiple} HR pixels and fit "
            f"into a tile (shard.tile={tile})."
        )


def check_workers(train: TrainConfig) -> None:
    """Checks `train.workers`.

    Raises:
        UserError: it is neither a number nor a range, or a step has fewer samples than workers.
    """
    workers = train.workers
    bounds = workers if isinstance(workers, list) else [workers]
    if any(isinstance(bound, bool) or not isinstance(bound, int) for bound in bounds) or (
        isinstance(workers, list) and not (len(bounds) == 2 and 1 <= bounds[0] < bounds[1])
    ):
        raise UserError(
            f"train.workers must be a whole number, or [min, max] with 1 <= min < max, not "
            f"{shown(workers)}."
        )
    if train.max_workers < 0:
        raise UserError(f"train.workers must be at least 0, not {workers}.")
    if train.max_workers > train.batch_size:
        raise UserError(
            f"train.batch_size={train.batch_size} must be at least train.workers={workers}: each "
            "worker takes a sample or more per step."
        )


def _check_groups(where: str, train: TrainConfig, names: list[str]) -> None:
    for name, group in train.groups.items():
        if name not in names:
            raise UserError(
                f"{where}.groups has no parameter group {shown(name)}: use {listing(names)}."
            )
        _check_values(group, f"{where}.groups.{name}.")


def _check_profile(where: str, profile: Any) -> None:
    if profile is None:
        return
    # Python takes a bool for an int, but a user does not mean a number by it.
    numbers = isinstance(profile, list) and [type(number) for number in profile] == [int, int]
    if not numbers or profile[0] < 0 or profile[1] < 1:
        raise UserError(
            f"{where}.profile={shown(profile)} must be [first_step, num_steps], two whole numbers "
            "of at least 0 and 1."
        )


def _check_validation(where: str, train: TrainConfig, config: Config, hr_multiple: int) -> None:
    """Refuses crops whose inside, within the borders, is too small for the metrics."""
    border = config.crop_border
    side = min(train.validate_crop, config.shard.val_tile) // hr_multiple * hr_multiple
    if side < 2 * border + SMALLEST:
        needed = -(-(2 * border + SMALLEST) // hr_multiple) * hr_multiple
        raise UserError(
            f"{where}.validate_crop={train.validate_crop} and shard.val_tile="
            f"{config.shard.val_tile} must be at least {needed} HR pixels to measure anything "
            f"within a border of {border} px."
        )
