"""Makes one checked configuration of the command line and a recipe. No other module uses OmegaConf.

`key=value` replaces the recipe's value, and the recipe's value replaces the schema's default. A
stage's `train` takes the last value that is set, in this order: schema, the recipe's `train`, the
recipe's `stages.<name>.train`, `train.*` on the command line, `stages.<name>.train.*` there. Its
`networks` follow the same order.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.config.refusals import check
from pipelines.config.schema import Config, DegradationConfig, StageConfig, TrainConfig
from pipelines.errors import UserError, listing, redacted
from pipelines.storage.digests import digest
from srmodels.degradation import PRESETS
from srmodels.system import System, load_system, system_names

RECIPES = Path(__file__).parents[1] / "recipes"


def load_config(overrides: Sequence[str]) -> Config:
    """Returns the checked configuration for `key=value` arguments.

    Raises:
        UserError: a key is unknown (the message names the nearest valid one), a value has a wrong
            type, the recipe is unknown, or a combination cannot work.
    """
    cli = _parse(overrides)
    recipe_path = find_recipe(str(cli.get("recipe", Config.recipe)))
    recipe = _read_recipe(recipe_path)
    preset = _preset(recipe, cli)
    schema, system = _schema(recipe, recipe_path, preset)
    for stage in _sub(cli, "stages"):
        if "kind" in _sub(cli, "stages", stage):
            raise UserError(f"stages.{stage}.kind can only be set in a recipe: write one.")
    try:
        _refuse_unknown_keys(recipe, schema, f"in {recipe_path.name}")
        _refuse_unknown_keys(cli, schema, "on the command line")
        merged = OmegaConf.merge(schema, recipe, cli)
        for name in merged.stages:
            merged.stages[name].train = OmegaConf.merge(
                OmegaConf.structured(TrainConfig),
                recipe.get("train", {}),
                _sub(recipe, "stages", name, "train"),
                cli.get("train", {}),
                _sub(cli, "stages", name, "train"),
            )
            merged.stages[name].networks = OmegaConf.merge(
                OmegaConf.structured(system.config),
                recipe.get("networks", {}),
                _sub(recipe, "stages", name, "networks"),
                cli.get("networks", {}),
                _sub(cli, "stages", name, "networks"),
            )
        config = OmegaConf.to_object(merged)
    except UserError:
        raise
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    assert isinstance(config, Config)
    config.recipe = str(recipe_path) if recipe_path.parent != RECIPES else recipe_path.stem
    _fill_defaults(config, recipe_path.stem)
    check(config, system)
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
    if not path.is_file():
        raise UserError(
            f"there is no recipe '{recipe}': use {listing(recipe_names())}, "
            "or the path of a .yaml file."
        )
    return path


def to_dict(config: Config) -> dict[str, Any]:
    """Returns a configuration as JSON values, to print, to log and to keep in documents.

    No address in it holds a password any more.
    """
    values: dict[str, Any] = _without_passwords(dataclasses.asdict(config))
    return values


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_passwords(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_passwords, value))
    return redacted(value) if isinstance(value, str) else value


def from_dict(values: dict[str, Any]) -> Config:
    """Returns the configuration that `to_dict` turned into these values."""
    preset = values["degradation"]["preset"]
    schema, system = _schema(values, Path(values["recipe"]), preset)
    merged = OmegaConf.merge(schema, values)
    for name in merged.stages:
        merged.stages[name].train = OmegaConf.merge(
            OmegaConf.structured(TrainConfig), values["stages"][name]["train"]
        )
        # In older configurations a stage has no networks of its own.
        own = values["stages"][name].get("networks") or values["networks"]
        merged.stages[name].networks = OmegaConf.merge(OmegaConf.structured(system.config), own)
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


def _parse(overrides: Sequence[str]) -> DictConfig:
    for argument in overrides:
        name, separator, _ = argument.partition("=")
        if not separator or not name or name.startswith("-"):
            raise UserError(
                f"cannot read '{argument}': arguments are key=value, --dry-run or --help."
            )
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"cannot read the arguments: {str(error).splitlines()[0]}") from None


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
    _preset(below, recipe)  # drops what belongs to another preset
    merged = OmegaConf.merge(below, recipe)
    assert isinstance(merged, DictConfig)
    return merged


def _read_yaml(path: Path) -> DictConfig:
    try:
        recipe = OmegaConf.load(path)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"recipe {path} cannot be read: {str(error).splitlines()[0]}") from None
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
        if not name:
            raise ValueError(
                f"it needs 'system:', one of {listing(system_names())}, or your own module."
            )
        system = load_system(name)
    except ValueError as error:
        raise UserError(f"recipe {path.name}: {error}") from None
    schema = OmegaConf.structured(Config)
    schema.networks = OmegaConf.structured(system.config)
    schema.init = OmegaConf.structured(system.initial)
    if preset in PRESETS:  # the check of the preset reports an unknown one
        schema.degradation.options = OmegaConf.structured(PRESETS[preset]())
    stages = {}
    for stage_name, stage in (recipe.get("stages") or {}).items():
        kind = (stage or {}).get("kind") or stage_name
        if kind not in system.stage_kinds():
            raise UserError(
                f"recipe {path.name}: stage '{stage_name}' is of unknown kind '{kind}': "
                f"{name} has {listing(system.stage_kinds())}."
            )
        stages[stage_name] = OmegaConf.structured(
            StageConfig(
                kind=kind,
                options=OmegaConf.structured(system.stage(kind).Options),
                networks=OmegaConf.structured(system.config),
                train=OmegaConf.structured(TrainConfig),
            )
        )
    schema.stages = stages
    OmegaConf.set_struct(schema, True)
    _open_mappings(schema)
    return schema, system


def _open_mappings(node: DictConfig) -> None:
    """Lets mappings whose keys are the user's own, such as train.groups, take any."""
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            if _is_open(child):
                OmegaConf.set_struct(child, False)
            else:
                _open_mappings(child)


def _is_open(node: DictConfig) -> bool:
    """Returns True where the schema says what the values of a mapping are, and not its keys."""
    return get_origin(node._metadata.ref_type) is dict


def _refuse_unknown_keys(user: DictConfig, schema: DictConfig, where: str) -> None:
    valid = list(_leaves(schema))
    for name in _leaves(user):
        node: Any = schema
        for position, part in enumerate(name.split(".")):
            if not isinstance(node, DictConfig):
                raise UserError(
                    f"unknown key '{name}' {where}: "
                    f"'{'.'.join(name.split('.')[:position])}' has no keys of its own."
                )
            if _is_open(node):
                if not dataclasses.is_dataclass(node._metadata.element_type):
                    break
                node = OmegaConf.structured(node._metadata.element_type)
                continue
            if part not in node:
                raise UserError(f"unknown key '{name}' {where}{_nearest(name, valid)}")
            node = node._get_node(part)
            if isinstance(node, DictConfig) and node._is_none():
                break
        else:
            given = OmegaConf.select(user, name)
            if isinstance(node, DictConfig) and len(node) and not isinstance(given, DictConfig):
                raise UserError(
                    f"'{name}' {where} is a group of keys: set one of them, for example "
                    f"'{name}.{next(iter(node))!s}'."
                )


def _nearest(name: str, valid: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if not close:
        last = [v for v in valid if v.rpartition(".")[2] == name.rpartition(".")[2]]
        close = last[:1]
    return f": did you mean '{close[0]}'?" if close else ": see --help for the valid ones."


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and len(child):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _sub(config: Any, *names: str) -> Any:
    for name in names:
        config = config.get(name) if isinstance(config, dict | DictConfig) else None
    return config if isinstance(config, dict | DictConfig) else {}


def _fill_defaults(config: Config, recipe: str) -> None:
    config.run.name = config.run.name or recipe
    config.mlflow.experiment = config.mlflow.experiment or recipe
    config.mlflow.model = config.mlflow.model or recipe
    for name in (config.run.name, config.mlflow.model):
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise UserError(
                f"'{name}' cannot be a run or model name: use letters, digits, '-', '_' and '.'."
            )
