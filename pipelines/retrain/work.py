"""Plans and runs the steps of a chain, and says why each of them runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pipelines import tracking
from pipelines.cluster import connect
from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.errors import Terminated, UserError
from pipelines.evaluation import evaluate
from pipelines.export import export
from pipelines.models.load import CHAMPION
from pipelines.notify import people
from pipelines.registry import register
from pipelines.registry.moves import Moves
from pipelines.retrain import history, tell
from pipelines.retrain.budget import Budget
from pipelines.retrain.journal import open_journal
from pipelines.retrain.lease import turn
from pipelines.retrain.records import Record, load, reason, records_of, save
from pipelines.retrain.settled import Unchanged, settled, unchanged
from pipelines.retrain.standing import standing
from pipelines.retrain.steps import Step, chain, stages_of
from pipelines.runs.names import run_checkpoints, run_name
from pipelines.tracing import span
from pipelines.training.launch import check_sources, run_chosen_stage
from pipelines.training.plan import plan_chosen_stage
from pipelines.training.preemption import Meter

#: Two functions for each job: one says its plan in words, the other does its work.
_JOBS: dict[str, tuple[Callable[[Config], str], Callable[[Config], Any]]] = {
    "shard": (shard.plan, shard.run),
    "train": (plan_chosen_stage, run_chosen_stage),
    "evaluate": (evaluate.plan, evaluate.run),
    "export": (export.plan, export.run),
    "register": (register.plan, register.run),
}


def plan(config: Config) -> str:
    """Returns every step with its reason and its plan, whose turn it is, what earlier starts came
    to, and who is told.

    Raises:
        UserError: a step cannot work, or nobody could be told.
    """
    if _lists(config):
        place = history.model_store(config).location
        return f"print the retrainings of '{config.mlflow.model}' in {place}"
    steps, told_to = chain(config), people(config.notify)
    plans = [_plan(step) for step in steps]
    lines, anything_runs = [], False
    for number, (step, text) in enumerate(zip(steps, plans, strict=True), 1):
        record = load(records_of(step.config), step.name)
        told = reason(record, step.inputs() if record else {})
        if told.startswith("runs"):
            anything_runs = True
        elif anything_runs:
            told += ", unless a step before changes them"
        lines += [f"{number}. {step.name}: {told}", text]
    if (same := unchanged(config, steps)) is not None:
        lines.append(f"nothing to do: {same.reason}")
    lines += standing(config)
    if told_to:
        lines.append(f"{len(steps) + 1}. notify: tell {told_to} what became of it")
    return "\n".join(lines)


def run(config: Config) -> str | None:
    """Runs every step that is not done yet; returns the registered version. With action=history, it
    prints the retrainings of the model instead.

    Where no input has changed, it ends at once, without Ray. Where no photo has come that can be
    trained on, it ends once the photos are sharded. The people whom `notify.*` names are told what
    became of it.

    Raises:
        UserError: a step cannot work, or failed.
        BusyError: another job retrains the model.
        BudgetSpentError: `retrain.max_hours` or `retrain.max_gpu_hours` is spent.
        NotPromotedError: all steps are done, and the gate refused the new version.
        Terminated: SIGTERM came while a stage trained; its work is saved.
    """
    if _lists(config):
        history.show(config)
        return None
    model = config.mlflow.model
    with (
        span("retraining", model=model, run=config.run.name, source=config.source) as note,
        tell.failures(config),
    ):
        steps = chain(config)
        version, same = settled(config, steps) or _run(config, steps)
        note.set(version=version)
    if same is not None:
        print(f"Nothing to do: {same.reason}. The result is {model} version {version}.")
        register.tell_champion(config)
    tell.outcome(same.config if same else config, version)
    if same is None:
        register.check_promoted(config, version)
    return version


def _run(config: Config, steps: Sequence[Step]) -> tuple[str, Unchanged | None]:
    """Returns the version that came of the steps; or that of an earlier retraining which this one
    would repeat, as was seen once the photos were sharded."""
    assert config.mlflow.model is not None
    with turn(config) as mine:
        # Everything that can be known is checked before the first step.
        for step in steps:
            _plan(step)
        client = tracking.connect(config.mlflow)
        check_sources(config, stages_of(config))
        inputs = history.given(config, Moves(client, config.mlflow.model).alias(CHAMPION))
        journal = open_journal(config, inputs, mine)
        with journal.kept(), connect():
            do = partial(_metered, journal.budget)
            follow(steps, do, journal.begins, slice(1))
            if (found := settled(config, steps, sharded=True)) is not None:
                journal.nothing_new(found[1].reason)
                return found
            version = str(follow(steps, do, journal.begins, slice(1, None)))
            journal.registered(version)
            return version, None


def _metered(budget: Budget, step: Step) -> Any:
    """Runs a step; tells why it ended if the budget ended it."""
    try:
        return run_here(step, budget)
    except Terminated as error:
        if step.job != "train" or not budget.spent:
            raise
        raise budget.error(_saved(step)) from error


def _saved(step: Step) -> str:
    """Returns in words how far the training of a stage has got."""
    name = step.config.stage
    assert name is not None
    run, steps = run_name(step.config, name), step.config.stages[name].train.steps
    newest = run_checkpoints(step.config, run).newest()
    return f"{run} is saved at step {newest.step if newest else 0} of {steps}"


def _lists(config: Config) -> bool:
    """Returns whether the job only prints the history.

    Raises:
        UserError: the action is one of jobs/register.py.
    """
    if config.action not in (None, "retrain", "history"):
        raise UserError(
            f"action={config.action} is one of jobs/register.py: use action=history, or none."
        )
    return config.action == "history"


def follow(
    steps: Sequence[Step],
    work: Callable[[Step], Any],
    begins: Callable[[Step], None] = lambda step: None,
    part: slice = slice(None),
) -> Any:
    """Does `work` on each step in order, under a heading that says why; returns the last result.

    A step that succeeds leaves a record of the inputs that it began with.

    Args:
        begins: is called before the work on a step.
        part: the steps of the chain that are followed now.
    """
    result = None
    for number, step in list(enumerate(steps, 1))[part]:
        store, inputs = records_of(step.config), step.inputs()
        told = reason(load(store, step.name), inputs)
        print(f"── {number}/{len(steps)} {step.name}: {told}", flush=True)
        begins(step)
        with span(step.name, run=step.config.run.name):
            result = work(step)
        save(store, Record(step.name, inputs))
    return result


def run_here(step: Step, meter: Meter = Meter()) -> Any:
    """Runs a step in this process; returns what its job returns.

    Args:
        meter: counts what a training uses, and may end it.
    """
    if step.job == "train":
        return run_chosen_stage(step.config, meter)
    return _JOBS[step.job][1](step.config)


def _plan(step: Step) -> str:
    return _JOBS[step.job][0](step.config)
