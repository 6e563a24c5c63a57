"""The whole chain, step by step: shard, stages, evaluate, export, register. Each step resumes."""

import copy
from collections.abc import Callable
from typing import Any

from pipelines import tracking
from pipelines.cluster import connect
from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.export import export
from pipelines.models.build import stage_on_meta
from pipelines.registry import register
from pipelines.runs.names import run_name
from pipelines.storage.paths import resolve
from pipelines.training.launch import run_stages
from pipelines.training.plan import stage_plan

#: (name, what runs it); every step gets a configuration of its own.
Step = tuple[str, Callable[[], Any]]


def plan(config: Config) -> str:
    """The plans of all steps. Raises UserError for what cannot work."""
    steps = _configurations(config)
    lines = [shard.plan(steps["shard"])]
    lines += [stage_plan(config, stage) for stage in (*config.stage1, *config.stage2)]
    lines += [evaluate.plan(steps["evaluate"]), export.plan(steps["export"])]
    lines += [register.plan(steps["register"])]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def run(config: Config) -> str:
    """Runs every step that is not done yet; returns the registered version."""
    # Everything that can be known is checked before the first step.
    plan(config)
    tracking.connect(config)
    with connect():
        steps = chain(config)
        for number, (name, work) in enumerate(steps, 1):
            print(f"── {number}/{len(steps)} {name}", flush=True)
            result = work()
    return str(result)


def chain(config: Config) -> list[Step]:
    steps = _configurations(config)
    return [
        ("shard", lambda: shard.run(steps["shard"])),
        ("stage 1", lambda: run_stages(config, config.stage1)),
        ("stage 2", lambda: run_stages(config, config.stage2)),
        ("evaluate", lambda: evaluate.run(steps["evaluate"])),
        ("export", lambda: export.run(steps["export"])),
        ("register", lambda: register.run(steps["register"])),
    ]


def _configurations(config: Config) -> dict[str, Config]:
    """The configuration of each step: the last stage's run is the model, compared with the last
    one of stage 1, if that trains what inference needs; shards go to `data`, results under `output`
    if that is set."""
    if not config.stage1 or not config.stage2:
        raise UserError(f"recipe {config.recipe} needs stages under both stage1 and stage2.")
    steps = {name: copy.deepcopy(config) for name in ("shard", "evaluate", "export", "register")}
    steps["shard"].output = None
    final = f"run:{run_name(config, config.stage2[-1])}"
    steps["evaluate"].model = steps["export"].model = final
    if stage_on_meta(config, config.stage1[-1]).previews_inference:
        steps["evaluate"].evaluate.compare.append(f"run:{run_name(config, config.stage1[-1])}")
    if config.output is not None:
        output = resolve(config.output)
        steps["evaluate"].output = steps["export"].export.evidence = str(output / "evaluate")
        steps["export"].output = str(output / "export")
        steps["register"].bundle = str(export.output_directory(steps["export"]))
    return steps
