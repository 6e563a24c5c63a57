"""Plans and runs the steps of a chain, and says why each of them runs."""

from collections.abc import Callable, Sequence
from typing import Any

from pipelines import tracking
from pipelines.cluster import connect
from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.evaluation import evaluate
from pipelines.export import export
from pipelines.registry import register
from pipelines.retrain import tell
from pipelines.retrain.records import Record, load, reason, records_of, save
from pipelines.retrain.steps import Step, chain, stages_of
from pipelines.storage.store import Store
from pipelines.training.launch import check_sources, run_chosen_stage
from pipelines.training.plan import plan_chosen_stage

#: Two functions for each job: one says its plan in words, the other does its work.
_JOBS: dict[str, tuple[Callable[[Config], str], Callable[[Config], Any]]] = {
    "shard": (shard.plan, shard.run),
    "train": (plan_chosen_stage, run_chosen_stage),
    "evaluate": (evaluate.plan, evaluate.run),
    "export": (export.plan, export.run),
    "register": (register.plan, register.run),
}


def plan(config: Config) -> str:
    """Returns every step with its reason and its plan, and who is told.

    Raises:
        UserError: a step cannot work, or nobody could be told.
    """
    steps, people = chain(config), tell.people(config)
    plans = [_plan(step) for step in steps]
    lines, anything_runs = [], False
    for number, (step, text) in enumerate(zip(steps, plans, strict=True), 1):
        record = load(_records(step), step.name)
        told = reason(record, step.inputs() if record else {})
        if told.startswith("runs"):
            anything_runs = True
        elif anything_runs:
            told += ", unless a step before changes them"
        lines += [f"{number}. {step.name}: {told}", text]
    if people:
        lines.append(f"{len(steps) + 1}. notify: tell {people} what became of it")
    return "\n".join(lines)


def run(config: Config) -> str:
    """Runs every step that is not done yet; returns the registered version.

    Where no input has changed, it ends at once, without Ray. The people whom `notify.*` names are
    told what became of it.

    Raises:
        UserError: a step cannot work, or failed.
        NotPromotedError: all steps are done, and the gate refused the new version.
        Terminated: SIGTERM came while a stage trained; its work is saved.
    """
    with tell.failures(config):
        steps = chain(config)
        before = settled(steps)
        version = _run(config, steps) if before is None else before
    if before is not None:
        print(
            f"Nothing to do: all {len(steps)} steps have the inputs that they had, and "
            f"{config.mlflow.model} version {before} came of them."
        )
        register.tell_champion(steps[-1].config)
    tell.outcome(config, version)
    if before is None:
        register.check_promoted(steps[-1].config, version)
    return version


def _run(config: Config, steps: Sequence[Step]) -> str:
    # Everything that can be known is checked before the first step.
    for step in steps:
        _plan(step)
    tracking.connect(config.mlflow)
    check_sources(config, stages_of(config))
    with connect():
        return str(follow(steps, run_here))


def settled(steps: Sequence[Step]) -> str | None:
    """Returns the version that came of these steps, if none of their inputs has changed since and
    the registry still has it; else None.

    It writes nothing, and starts nothing. It reads the source's listing, and no photos.

    Raises:
        UserError: an input cannot be read, or the registry does not answer.
    """
    for step in steps:
        record = load(_records(step), step.name)
        if record is None or reason(record, step.inputs()).startswith("runs"):
            return None
    return register.registered(steps[-1].config)


def follow(steps: Sequence[Step], work: Callable[[Step], Any]) -> Any:
    """Does `work` on each step in order, under a heading that says why; returns the last result.

    A step that succeeds leaves a record of the inputs that it began with.
    """
    result = None
    for number, step in enumerate(steps, 1):
        store, inputs = _records(step), step.inputs()
        told = reason(load(store, step.name), inputs)
        print(f"── {number}/{len(steps)} {step.name}: {told}", flush=True)
        result = work(step)
        save(store, Record(step.name, inputs))
    return result


def run_here(step: Step) -> Any:
    """Runs a step in this process; returns what its job returns."""
    return _JOBS[step.job][1](step.config)


def _plan(step: Step) -> str:
    return _JOBS[step.job][0](step.config)


def _records(step: Step) -> Store:
    assert step.config.run.name is not None
    return records_of(step.config.run.name)
