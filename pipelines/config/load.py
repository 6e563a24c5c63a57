"""Makes one checked configuration of the command line and a recipe.

No module outside this room uses OmegaConf.

`key=value` replaces the recipe's value, and the recipe's value replaces the schema's default. A
stage's `train` takes the last value that is set, in this order: schema, the recipe's `train`, the
recipe's `stages.<name>.train`, `train.*` on the command line, `stages.<name>.train.*` there. Its
`networks` follow the same order.
"""

import copy
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.config.arguments import read_arguments
from pipelines.config.refusals import LONGEST_NAME, check, is_name
from pipelines.config.schema import Config, DegradationConfig, StageConfig, TrainConfig
from pipelines.config.unknown_keys import is_open, refuse_other_kinds, refuse_unknown_keys
from pipelines.config.wording import UNREADABLE, expected, plain_errors, shown, yaml_reason
from pipelines.errors import UserError, listing, redacted
from pipelines.storage.digests import digest
from srmodels.degradation import PRESETS
from srmodels.system import System, load_system, system_names

RECIPES = Path(__file__).parents[1] / "recipes"

# Values of the environment are secrets, or differ from machine to machine; a configuration is kept
# in checkpoints and bundles. Without the resolver, every way to name it fails.
OmegaConf.clear_resolver("oc.env")


def load_config(overrides: Sequence[str]) -> Config:
    """Returns the checked configuration for `key=value` arguments.

    Raises:
        UserError: a key is unknown (the message names the key that was probably meant), a value has
            a wrong type, the recipe is unknown, or a combination cannot work.
    """
    cli = read_arguments(overrides)
    with plain_errors():
        recipe_path = find_recipe(str(cli.get("recipe", Config.recipe)))
        recipe = _read_recipe(recipe_path)
        preset = _preset(recipe, cli)
        schema, system = _schema(recipe, recipe_path, preset)
        refuse_unknown_keys(recipe, schema, f"in {recipe_path.name}")
        refuse_unknown_keys(cli, schema, "on the command line")
        _refuse_what_recipes_set(cli)
        config = _checked_types(_merged(schema, recipe, cli))
    config.recipe = str(recipe_path) if recipe_path.parent != RECIPES else recipe_path.stem
    _fill_defaults(config, recipe_path.stem)
    check(config, system)
    return config


def _merged(schema: DictConfig, recipe: DictConfig, cli: DictConfig) -> DictConfig:
    """Returns all values; a stage's `train` and `networks` in the order that the module names.

    The user's values are few and have no types yet, so they are merged first: merging into the
    schema copies all of it.
    """
    asked: Any = OmegaConf.merge(recipe, cli)
    stages = {name: _sub(asked, "stages", name) for name in schema.stages}
    # Last, so that a mistake in a section for all stages is told with the key that was written.
    asked.pop("stages", None)
    asked.stages = stages
    for name in stages:
        for section in ("train", "networks"):
            ways = (section,), ("stages", name, section)
            values = [_sub(given, *way) for given in (recipe, cli) for way in ways]
            asked.stages[name][section] = OmegaConf.merge(*values)
    merged = OmegaConf.merge(schema, asked)
    assert isinstance(merged, DictConfig)
    for name in merged.stages:
        merged.stages[name].kind = schema.stages[name].kind  # a recipe's null means the name
    return merged


def _checked_types(merged: DictConfig) -> Config:
    """Returns the values as an instance of the schema.

    Raises:
        UserError: a list holds what its type does not allow, or a dataclass of a system, stage or
            degradation refuses its values.
    """
    _refuse_nested_lists(merged)
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    assert isinstance(config, Config)
    return config


def recipe_names() -> list[str]:
    """Returns the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(recipe: str) -> Path:
    """Returns the path of a recipe's YAML, given a shipped recipe's name or a path.

    Raises:
        UserError: there is no such file; the message lists the shipped recipes.
    """
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not os.path.isfile(path):  # unlike Path.is_file, it takes any text
        raise UserError(
            f"there is no recipe {shown(recipe)}: use {listing(recipe_names())}, "
            "or the path of a .yaml file."
        )
    return path


def to_dict(config: Config) -> dict[str, Any]:
    """Returns a configuration as JSON values, to print, to log and to keep in documents.

    No address in it holds a password any more, and it does not say whom a job notifies: that shapes
    no result, and the path of a webhook is a secret.
    """
    values: dict[str, Any] = _without_passwords(dataclasses.asdict(config))
    del values["notify"]
    return values


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_passwords(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_passwords, value))
    return redacted(value) if isinstance(value, str) else value


def from_dict(values: dict[str, Any]) -> Config:
    """Returns the configuration that `to_dict` turned into these values.

    Raises:
        ValueError: a text holds an interpolation. A few of them can stand for any number of values.
    """
    if "${" in json.dumps(values, default=str):
        raise ValueError("it holds an interpolation, ${…}")
    preset = values["degradation"]["preset"]
    schema, _ = _schema(values, Path(values["recipe"]), preset)
    # In older configurations a stage has no networks of its own.
    own = {
        name: stage | {"networks": stage.get("networks") or values["networks"]}
        for name, stage in values["stages"].items()
    }
    merged = OmegaConf.merge(schema, values | {"stages": own})
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    return config


def to_yaml(config: Config) -> str:
    """Returns a configuration as YAML."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def config_digest(config: Config) -> str:
    """Returns the sha256 of a configuration."""
    return digest(to_dict(config))


def documented_keys(cls: type = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields (key, default, help) of every key; a section's name comes before its keys."""
    for item in dataclasses.fields(cls):
        name = prefix + item.name
        if dataclasses.is_dataclass(item.type):
            assert isinstance(item.type, type)
            yield from documented_keys(item.type, f"{name}.")
        else:
            default = item.default
            if default is dataclasses.MISSING:
                assert item.default_factory is not dataclasses.MISSING
                default = item.default_factory()
            yield name, default, item.metadata["help"]


def _read_recipe(path: Path, derived: tuple[Path, ...] = ()) -> DictConfig:
    """Returns a recipe, merged over the recipe that its `base` names.

    Args:
        derived: the recipes that are based on this one.
    """
    recipe = _read_yaml(path)
    base = recipe.pop("base", None)
    if base is None:
        return recipe
    if path in derived:
        raise UserError(
            f"recipe {path.name} is its own base, perhaps through others: remove one 'base'."
        )
    below = _read_recipe(find_recipe(str(base)), (*derived, path))
    refuse_other_kinds(recipe, below, f"in {path.name}")
    _preset(below, recipe)  # drops what belongs to another preset
    merged = OmegaConf.merge(below, recipe)
    assert isinstance(merged, DictConfig)
    return merged


def _read_yaml(path: Path) -> DictConfig:
    try:
        recipe: Any = OmegaConf.load(path)
    except AssertionError:  # OmegaConf reads a text as YAML again, and expects a container there
        recipe = None
    except UNREADABLE as error:
        raise UserError(f"recipe {path} cannot be read ({yaml_reason(error)}).") from None
    if not isinstance(recipe, DictConfig):
        raise UserError(f"recipe {path} is not a mapping of keys to values.")
    return recipe


def _preset(recipe: DictConfig, over: DictConfig) -> str:
    """Returns the name of the degradation; `over` may choose another than `recipe` does.

    If so, this drops the parameters in `recipe`, since they belong to the recipe's degradation.

    Args:
        over: the command line, or a recipe that is based on `recipe`.
    """
    own = _sub(recipe, "degradation").get("preset")
    chosen = _sub(over, "degradation").get("preset")
    if chosen and chosen != own:
        _sub(recipe, "degradation").pop("options", None)
    return str(chosen or own or DegradationConfig.preset)


def _schema(recipe: Any, path: Path, preset: str) -> tuple[DictConfig, System]:
    """Returns the schema of a recipe, and its system.

    The schema holds the keys of the system's networks, of the stages' options and of the
    degradation `preset`.
    """
    name = recipe.get("system")
    try:
        if not name or not isinstance(name, str):
            raise ValueError(
                f"it needs 'system:', one of {listing(system_names())}, or your own module."
            )
        system = load_system(name)
    except ValueError as error:
        raise UserError(f"recipe {path.name}: {error}") from None
    kinds = _kinds(recipe.get("stages"), path, system)
    stages = tuple((stage, kind, system.stage(kind).Options) for stage, kind in kinds.items())
    initial: Any = system.initial  # mypy does not see that every class has a hash
    return _keys(system.config, initial, preset, stages), system


@functools.lru_cache(maxsize=100)
def _keys(
    networks: type, initial: type, preset: str, stages: tuple[tuple[str, str, type], ...]
) -> DictConfig:
    """Returns the schema of a recipe, made once. Nobody may change it: OmegaConf merges copies.

    Args:
        networks: dataclass of the system's networks.
        initial: dataclass of the sources of first weights.
        stages: name, kind and dataclass of the options of each stage.
    """
    schema = copy.deepcopy(_declared(Config))
    schema.networks = _declared(networks)
    schema.init = _declared(initial)
    if preset in PRESETS:  # the check of the preset reports an unknown one
        schema.degradation.options = OmegaConf.structured(PRESETS[preset]())
    schema.stages = {
        name: OmegaConf.structured(
            StageConfig(
                kind=kind,
                options=_declared(options),
                networks=_declared(networks),
                train=_declared(TrainConfig),
            )
        )
        for name, kind, options in stages
    }
    OmegaConf.set_struct(schema, True)
    _open_mappings(schema)
    return schema


@functools.cache
def _declared(cls: type) -> DictConfig:
    """Returns the keys of a dataclass, made once. OmegaConf copies it wherever it is put."""
    declared = OmegaConf.structured(cls)
    assert isinstance(declared, DictConfig)
    return declared


def _kinds(recipe: Any, path: Path, system: System) -> dict[str, str]:
    """Returns the kind of each stage of a recipe, by name.

    Args:
        recipe: the recipe's `stages`.
    """
    if recipe is not None and not isinstance(recipe, dict | DictConfig):
        raise UserError(
            f"recipe {path.name}: stages is {shown(recipe)}, but must be a mapping: write each "
            "stage as NAME: {kind: …, train: {…}}."
        )
    kinds: dict[str, str] = {}
    items: Any = (recipe or {}).items()
    for name, stage in items:
        if not is_name(name) or "." in name:
            raise UserError(
                f"recipe {path.name}: {shown(name)} cannot be a stage's name: use letters, digits, "
                "'-' and '_'."
            )
        if stage is not None and not isinstance(stage, dict | DictConfig):
            raise UserError(
                f"recipe {path.name}: stage '{name}' is {shown(stage)}, but must be a mapping, "
                "such as {train: {steps: 100}}."
            )
        kind = (stage or {}).get("kind")
        kind = name if kind is None else kind
        if kind not in system.stage_kinds():
            raise UserError(
                f"recipe {path.name}: stage '{name}' is of unknown kind {shown(kind)}: "
                f"{system.name} has {listing(system.stage_kinds())}."
            )
        kinds[name] = kind
    return kinds


def _open_mappings(node: DictConfig) -> None:
    """Lets mappings whose keys are the user's own, such as train.groups, take any."""
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            if is_open(child):
                OmegaConf.set_struct(child, False)
            else:
                _open_mappings(child)


def _refuse_what_recipes_set(cli: DictConfig) -> None:
    """Refuses the keys on the command line that decide which other keys there are."""
    stages = _sub(cli, "stages")
    kinds = [f"stages.{stage}.kind" for stage in stages if "kind" in _sub(stages, stage)]
    if found := [*({"system"} & set(cli)), *kinds]:
        raise UserError(f"{found[0]} can only be set in a recipe: write one.")


def _refuse_nested_lists(node: Any) -> None:
    """Refuses containers in lists of numbers or names, which OmegaConf lets through."""
    if node._is_none() or node._is_interpolation():
        return
    names = list(node) if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        child = node._get_node(name)
        if not isinstance(child, DictConfig | ListConfig):
            continue
        if isinstance(node, ListConfig) and node._metadata.element_type in (int, float, str, bool):
            raise UserError(
                f"{node._get_full_key(name)} is {shown(OmegaConf.to_container(child))}, but must "
                f"be {expected(node._metadata.element_type)}."
            )
        _refuse_nested_lists(child)


def _sub(config: Any, *names: str) -> Any:
    for name in names:
        config = config.get(name) if isinstance(config, dict | DictConfig) else None
    return config if isinstance(config, dict | DictConfig) else {}


def _fill_defaults(config: Config, recipe: str) -> None:
    config.run.name = config.run.name or recipe
    config.mlflow.experiment = config.mlflow.experiment or recipe
    config.mlflow.model = config.mlflow.model or recipe
    for name in (config.run.name, config.mlflow.model):
        if not is_name(name):
            raise UserError(
                f"{shown(name)} cannot be a run or model name: use letters, digits, '-', '_' and "
                f"'.', at most {LONGEST_NAME} of them."
            )
