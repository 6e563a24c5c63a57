"""Tells that a retraining has nothing to do, since a version came of the same photos and settings.

Nothing is written, and no photo is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.data.ownership import REPORT
from pipelines.registry import register
from pipelines.retrain.history import Retrainings, model_store
from pipelines.retrain.records import changed, load, records_of
from pipelines.retrain.steps import Step, chain


@dataclass(frozen=True)
class Settled:
    """A retraining that has nothing to do.

    Attributes:
        version: the registered version that came of the same dataset and settings.
        reason: why nothing is to do, in words.
        config: the configuration of the retraining that the version came of.
    """

    version: str
    reason: str
    config: Config


def settled(config: Config, steps: Sequence[Step]) -> Settled | None:
    """Returns why a chain has nothing to do; None if it has.

    It has not if no input of its steps has changed since they succeeded. Nor has one whose photos
    are sharded, if the model's last retraining had the same dataset and the same settings, and
    another listing of the source: what came since gave no photo to train on.

    Raises:
        UserError: an input or a record cannot be read, or the registry does not answer.
    """
    model = config.mlflow.model
    if (version := came_of(steps)) is not None:
        told = f"all {len(steps)} steps have the inputs that they had"
        return Settled(version, f"{told}, and {model} version {version} came of them", config)
    earlier = _last(config) if _is_sharded(steps[0]) else None
    if earlier is None or not _only_the_listing_differs(steps[0], earlier):
        return None
    before = replace(config, run=replace(config.run, name=earlier))
    if (version := came_of(chain(before)[1:])) is None:
        return None
    place = shard.output_location(steps[0].config)
    told = (
        f"no photo that can be trained on has come since run {earlier} ({place}/{REPORT} names "
        "what is left out, and why)"
    )
    return Settled(version, f"{told}, and {model} version {version} came of the others", before)


def came_of(steps: Sequence[Step]) -> str | None:
    """Returns the version that came of these steps, if none of their inputs has changed since and
    the registry still has it; else None.

    Raises:
        UserError: an input cannot be read, or the registry does not answer.
    """
    for step in steps:
        record = load(records_of(step.config), step.name)
        if record is None or changed(record, step.inputs()):
            return None
    return register.registered(steps[-1].config)


def _last(config: Config) -> str | None:
    """Returns the `run.name` of the model's last retraining that registered a version."""
    for record in Retrainings(model_store(config)).all():
        if record.registered is not None:
            return record.run if record.run != config.run.name else None
    return None


def _is_sharded(step: Step) -> bool:
    record = load(records_of(step.config), step.name)
    return record is not None and not changed(record, step.inputs())


def _only_the_listing_differs(step: Step, run: str) -> bool:
    """Returns whether a run sharded its photos from another listing, and all else was the same.

    Args:
        step: the step that shards the photos of this retraining.
    """
    other = replace(step.config, run=replace(step.config.run, name=run))
    record = load(records_of(other), step.name)
    return record is not None and changed(record, step.inputs()) == ["source"]
