"""Finds a stage's first weights: another stage's, a model's, others' weights, or random ones.

Weights from outside are kept as a checkpoint of their own, see `pipelines.runs.outside`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pipelines.config.load import to_dict
from pipelines.config.reference import ModelReference
from pipelines.config.refusals import KEPT_START
from pipelines.config.schema import Config
from pipelines.errors import UserError, listing
from pipelines.models.build import with_structure
from pipelines.models.load import Model, load_model, trained_config, weights_sha256
from pipelines.runs.checkpoint import RESULT, Checkpoint
from pipelines.runs.names import run_checkpoints, run_name
from pipelines.runs.outside import keep_weights, kept_weights
from pipelines.storage.files import file_sha256
from pipelines.storage.paths import resolve
from srmodels.compression.structure import own_numbers, structure_of
from srmodels.network import SRNetwork, load_weights
from srmodels.system import load_system


def start_checkpoint(config: Config, name: str, planned: Sequence[str] = ()) -> Checkpoint | None:
    """Returns the checkpoint that a stage starts from; None for random weights.

    A run that has begun keeps the weights that it began with. Their source is not asked again: an
    alias may have moved on, and a file may be gone.

    Args:
        planned: stages that the same job runs before this one. None is returned for a start from
            one of them.

    Raises:
        UserError: the stage before is not complete; a model or a file is missing or has other
            networks; or `init.*` would be ignored.
    """
    before, sources = config.stages[name].init_from, _sources(config)
    if before in config.stages:
        if sources:
            _check_reached(config, name, before, planned)
        return None if before in planned else _from_stage(config, name, before)
    if before is None and not sources:
        return None
    if before is not None and sources:
        raise _ignored(config, f"stage '{name}' starts from {before}")
    return _begun(config, name) or _written(config, name)


def describe_start(config: Config, name: str) -> str:
    """Returns one line that says what a stage starts from."""
    before = config.stages[name].init_from
    if before is not None:
        return f"stage {before}" if before in config.stages else f"model {before}"
    return (
        ", ".join(f"{key} {value}" for key, value in _sources(config).items()) or "random weights"
    )


def _sources(config: Config) -> dict[str, str]:
    """Returns the sources that `init.*` names, by key."""
    return {key: value for key, value in asdict(config.init).items() if value}


def _check_reached(config: Config, name: str, before: str | None, planned: Sequence[str]) -> None:
    """Refuses `init.*` where no stage before this one has started from it."""
    first = name
    while before in config.stages:
        first, before = str(before), config.stages[before].init_from
    if before is not None:
        raise _ignored(config, f"stage '{first}' starts from {before}")
    if first not in planned and _begun(config, first) is None:
        raise _ignored(config, f"stage '{first}' was trained without")


def _ignored(config: Config, reason: str) -> UserError:
    key = next(iter(_sources(config)))
    return UserError(
        f"init.{key} would be ignored, since {reason}: it is for stages with init_from=null, when "
        "they are trained."
    )


def _from_stage(config: Config, name: str, before: str) -> Checkpoint:
    newest = result_of_stage(config, name, before)
    asked = to_dict(config)["stages"][name]["networks"]
    if own_numbers(newest.state().networks) != own_numbers(asked):
        raise UserError(
            f"stage '{name}' starts from run '{newest.run.name}', which has other networks: set "
            "networks.* as they were there, or train that stage again under another run.name."
        )
    return newest


def result_of_stage(
    config: Config, name: str, before: str, *, needs: str = "starts from"
) -> Checkpoint:
    """Returns the last checkpoint of the stage `before`, which the stage `name` needs.

    Args:
        needs: the verb that the message uses: `name` starts from `before`, or learns from it.

    Raises:
        UserError: the stage `before` has not reached the steps that it was started for.
    """
    run = run_checkpoints(config, run_name(config, before))
    newest = run.newest_intact(RESULT)
    state = newest.state() if newest else None
    if (
        newest is None
        or state is None
        or state.step < trained_config(state).stages[before].train.steps
    ):
        raise UserError(
            f"stage '{name}' {needs} stage '{before}', but run '{run.name}' in "
            f"{run.location.rpartition('/')[0]} is not complete: run jobs/train.py "
            f"stage={before} first, with the same run.name."
        )
    return newest


def _asked(config: Config, name: str) -> dict[str, Any]:
    """Returns the settings that describe a start from outside."""
    return {
        "start": config.stages[name].init_from or _sources(config),
        "networks": to_dict(config)["stages"][name]["networks"],
        "seed": config.seed,
    }


def _begun(config: Config, name: str) -> Checkpoint | None:
    """Returns the weights that the run began with, if the settings still ask for the same."""
    return kept_weights(
        config,
        _start_name(config, name),
        used_by=run_name(config, name),
        asked=_asked(config, name),
    )


def _start_name(config: Config, name: str) -> str:
    return f"{run_name(config, name)}{KEPT_START}"


def _written(config: Config, name: str) -> Checkpoint:
    """Keeps weights from outside; the weights that their source leaves out are random."""
    stage = config.stages[name]
    try:
        outside = (
            _from_files(config)
            if stage.init_from is None
            else _from_model(config, name, ModelReference.parse(stage.init_from))
        )
        networks = with_structure(config, name, outside.structure).stages[name].networks
        described_by = replace(config, networks=networks)

        def make() -> dict[str, Tensor]:
            torch.manual_seed(config.seed)
            network = load_system(config.system).build(described_by.networks)
            print("\n".join(outside.fill(network)), flush=True)
            return network.state_dict()

        return keep_weights(
            config,
            _start_name(config, name),
            stage=name,
            described_by=described_by,
            asked=_asked(config, name),
            content=outside.content,
            parent_version=outside.parent_version,
            manifest=outside.manifest,
            make=make,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"stage '{name}' cannot start: {error}") from None


@dataclass(frozen=True)
class _Outside:
    """Weights from outside.

    Attributes:
        content: a JSON value that identifies them.
        fill: fills networks with them, and returns a line for each source.
        structure: what compression changed of their networks.
        parent_version: the registered version that they descend from.
        manifest: the digest of the dataset that they were trained on, where it is known.
    """

    content: Any
    fill: Callable[[SRNetwork], list[str]]
    structure: dict[str, Any] = field(default_factory=dict)
    parent_version: str | None = None
    manifest: str = ""


def _from_files(config: Config) -> _Outside:
    local = {key: resolve(value) for key, value in _sources(config).items() if ":" not in value}
    init = replace(config.init, **{k: str(path) for k, path in local.items() if path.exists()})
    files = init.files()
    content = {key: file_sha256(path) for key, path in files.items()}
    return _Outside(content, lambda network: init.load(network, files))


def _from_model(config: Config, name: str, reference: ModelReference) -> _Outside:
    model = load_model(reference, config, to_train=True)
    shipped, kept = model.network.inference_state_dict(), model.finetuning_weights
    weights = model.trained_weights or shipped | kept
    found = {weight.partition(".")[0] for weight in weights}
    stage = load_system(config.system).stage(config.stages[name].kind)

    def fill(network: SRNetwork) -> list[str]:
        _check_same_networks(config, name, model, network)
        if absent := sorted(set(stage.reads) - found):
            raise UserError(
                f"{reference} has no weights of {listing(absent)}, which stage '{name}' learns "
                "from: let it start from the run that the model came from (run:NAME), or anew."
            )
        if model.trained_weights:
            load_weights(network, network.inference_modules().keys() | found, weights)
        else:
            network.load_fused_state_dict(shipped)
            load_weights(network, found - network.inference_modules().keys(), kept)
        meant = f" It is {model.version} now." if reference.alias else ""
        return [f"Starting from {reference}.{meant}"]

    return _Outside(
        weights_sha256(weights),
        fill,
        structure_of(vars(model.config.networks)),
        model.parent_version,
        model.provenance.manifest,
    )


def _check_same_networks(config: Config, name: str, model: Model, network: SRNetwork) -> None:
    """Refuses a model whose networks differ, except for the networks that only train."""
    kept = network.inference_modules() | network.finetuning_modules()
    free = (network._modules.keys() | model.network._modules.keys()) - kept.keys()
    ours, theirs = (
        {key: value for key, value in own_numbers(networks).items() if key not in free}
        for networks in (asdict(config.stages[name].networks), asdict(model.config.networks))
    )
    different = sorted(key for key in ours if ours[key] != theirs.get(key))
    if model.config.system != config.system or different:
        raise UserError(
            f"{model.reference} has other networks ({', '.join(different) or model.config.system}) "
            "than the recipe: set networks.* as they were there."
        )
