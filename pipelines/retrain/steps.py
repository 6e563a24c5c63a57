"""Turns a recipe into the steps of its chain: the job of each, its arguments, and its inputs."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.config.arguments import written
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.export import export
from pipelines.models.build import stage_on_meta
from pipelines.retrain import inputs
from pipelines.runs.names import run_name
from pipelines.storage.paths import absolute_location


@dataclass(frozen=True)
class Step:
    """One step of the chain.

    Attributes:
        name: the heading that people read, such as `stage joint`.
        job: the file in jobs/ that does it, without `.py`.
        arguments: the arguments of `jobs/<job>.py`; they lead to `config`.
        config: the step's configuration.
        inputs: reads the present inputs of the step; see `inputs.py`.
    """

    name: str
    job: str
    arguments: tuple[str, ...]
    config: Config
    inputs: Callable[[], inputs.Inputs]


def chain(config: Config, arguments: Sequence[str] = ()) -> list[Step]:
    """Returns the steps of a recipe: shard, a step for each stage, evaluate, export, register.

    The last stage's run is the model. It is compared with the last stage before it that trains all
    that inference needs. Shards go to `data`, results under `output` if that is set.

    Args:
        config: the configuration that all steps share.
        arguments: the `key=value` arguments that gave it, without `recipe`.

    Raises:
        UserError: the recipe has no stages, the last one leaves networks that inference needs
            untrained, or `export.candidates` names other models than its own.
    """
    if config.export.candidates:
        raise UserError(
            "export.candidates is for jobs/export.py alone, since a retraining exports the model "
            "that it trained: leave it out."
        )
    stages, shared = stages_of(config), (f"recipe={config.recipe}", *arguments)
    _check_last(config, stages[-1])
    return [_step(config, shared, *part) for part in _parts(config, stages)]


def stages_of(config: Config) -> list[str]:
    """Returns the stages of `stage1` and `stage2`, or all stages if both lists are empty.

    Raises:
        UserError: the recipe has no stages.
    """
    stages = [*config.stage1, *config.stage2] or list(config.stages)
    if not stages:
        raise UserError(
            f"recipe {config.recipe} has no stages: add one under 'stages' in its YAML."
        )
    return stages


#: Name, job, the keys that differ from the shared configuration, and the reader of the inputs.
_Part = tuple[str, str, Mapping[str, Any], Callable[[Config], inputs.Inputs]]


def _parts(config: Config, stages: list[str]) -> Iterator[_Part]:
    model = {"model": _run(config, stages[-1])}
    compare = {"evaluate.compare": [*config.evaluate.compare, *_compared(config, stages)]}
    places = _places(config, model)
    yield "shard", "shard", places["shard"], inputs.of_shard
    for stage in stages:
        replay = config.retrain.replay
        own = {} if replay is None else {f"stages.{stage}.train.replay": replay}
        yield f"stage {stage}", "train", {"stage": stage, **own}, inputs.of_stage
    yield "evaluate", "evaluate", model | compare | places["evaluate"], inputs.of_evaluate
    yield "export", "export", model | places["export"], inputs.of_export
    yield "register", "register", places["register"], inputs.of_register


def _places(config: Config, model: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns, by job, the keys that put its result under `output`; none if that is not set."""
    if config.output is None:
        return {job: {} for job in ("shard", "evaluate", "export", "register")}
    output = absolute_location(config.output).rstrip("/")
    exported = {"output": f"{output}/export", "export.evidence": f"{output}/evaluate"}
    bundle = export.output_location(_changed(config, {**model, **exported}))
    return {
        "shard": {"output": None},
        "evaluate": {"output": f"{output}/evaluate"},
        "export": exported,
        "register": {"bundle": bundle},
    }


def _check_last(config: Config, stage: str) -> None:
    """Raises UserError if the networks that ship are not all trained after the last stage."""
    if not stage_on_meta(config, stage).previews_inference:
        raise UserError(
            f"the chain of recipe {config.recipe} ends with stage '{stage}', which does not train "
            "all that inference needs: add the stage that does to stage2."
        )


def _compared(config: Config, stages: list[str]) -> list[str]:
    """Returns the run of the last stage before the final one after which inference works.

    The list is empty if there is no such stage.
    """
    ready = (s for s in reversed(stages[:-1]) if stage_on_meta(config, s).previews_inference)
    return [_run(config, stage) for stage in ready][:1]


def _run(config: Config, stage: str) -> str:
    """Returns the reference of a stage's run."""
    return str(ModelReference(Kind.RUN, run_name(config, stage)))


def _step(
    config: Config,
    shared: tuple[str, ...],
    name: str,
    job: str,
    changes: Mapping[str, Any],
    read: Callable[[Config], inputs.Inputs],
) -> Step:
    own = _changed(config, changes)
    arguments = (*shared, *(f"{key}={written(value)}" for key, value in changes.items()))
    return Step(name, job, arguments, own, partial(read, own))


def _changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns a copy of the configuration with other values for some keys."""
    changed = copy.deepcopy(config)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section: Any = changed
        for part in sections:
            section = section[part] if isinstance(section, dict) else getattr(section, part)
        assert hasattr(section, name), key
        setattr(section, name, value)
    return changed
