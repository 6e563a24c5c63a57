"""The whole chain, step by step: shard, stages, evaluate, export, register. Each step resumes."""

import copy
from collections.abc import Callable
from typing import Any

from pipelines import export, tracking
from pipelines.cluster import connect
from pipelines.data import shard
from pipelines.evaluation import evaluate
from pipelines.registry import register
from pipelines.schema import Config
from pipelines.storage import resolve
from pipelines.training.launch import run_stages
from pipelines.training.plan import run_name, stage_plan

#: (name, what runs it); every step gets a configuration of its own.
Step = tuple[str, Callable[[], Any]]


def plan(config: Config) -> str:
    """The plans of all steps. Raises UserError for an unusable source."""
    stages = [*config.stage1, *config.stage2]
    final = for_final_model(config)
    lines = ["1. " + shard.plan(for_shards(config))]
    lines += [f"{n}. {stage_plan(config, stage)}" for n, stage in enumerate(stages, 2)]
    rest = [evaluate.plan(final), export.plan(final), register.plan(config)]
    lines += [f"{n}. {line}" for n, line in enumerate(rest, 2 + len(stages))]
    return "\n".join(lines)


def run(config: Config) -> str:
    """Runs every step that is not done yet; returns the registered version."""
    tracking.connect(config)
    shard.plan(for_shards(config))
    with connect():
        steps = chain(config)
        for number, (name, work) in enumerate(steps, 1):
            print(f"── {number}/{len(steps)} {name}", flush=True)
            result = work()
    return str(result)


def chain(config: Config) -> list[Step]:
    final = for_final_model(config)
    evaluated, exported = copy.deepcopy(final), copy.deepcopy(final)
    registered = copy.deepcopy(config)
    if config.output is not None:
        evaluated.output = str(resolve(config.output) / "evaluate")
        exported.output = str(resolve(config.output) / "export")
        exported.export.evidence = evaluated.output
        registered.bundle = str(resolve(exported.output) / str(config.run.name))
    return [
        ("shard", lambda: shard.run(for_shards(config))),
        ("stage 1", lambda: run_stages(config, config.stage1)),
        ("stage 2", lambda: run_stages(config, config.stage2)),
        ("evaluate", lambda: evaluate.run(evaluated)),
        ("export", lambda: export.run(exported)),
        ("register", lambda: register.run(registered)),
    ]


def for_shards(config: Config) -> Config:
    """Shards go to `data`, whatever `output` says."""
    result = copy.deepcopy(config)
    result.output = None
    return result


def for_final_model(config: Config) -> Config:
    """The last stage's run as the model, compared with the stage before the last job's."""
    result = copy.deepcopy(config)
    result.model = f"run:{run_name(config, config.stage2[-1])}"
    result.evaluate.compare = [f"run:{run_name(config, config.stage1[-1])}"]
    return result
