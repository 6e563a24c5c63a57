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
class Unchanged:
    """A retraining whose result would be that of an earlier one.

    Attributes:
        reason: why, in words.
        config: the configuration of the earlier one.
        register: that of its last step, which registered the result.
    """

    reason: str
    config: Config
    register: Config


def settled(config: Config, steps: Sequence[Step]) -> tuple[str, Unchanged] | None:
    """Returns the version that came of an earlier retraining which this one would repeat; None if
    it would not, or the registry no longer has the version.

    Raises:
        UserError: an input or a record cannot be read, or the registry does not answer.
    """
    if (found := unchanged(config, steps)) is None:
        return None
    version = register.registered(found.register)
    return None if version is None else (version, found)


def unchanged(config: Config, steps: Sequence[Step]) -> Unchanged | None:
    """Returns the earlier retraining that a chain would repeat; None if it would not.

    It would, if no input of its steps has changed since they succeeded. It would also, once its
    photos are sharded, if the model's last retraining had the same dataset and the same settings,
    and another listing of the source: what came since gave no photo to train on.

    Raises:
        UserError: an input or a record cannot be read.
    """
    if _have_their_inputs(steps):
        told = f"all {len(steps)} steps have the inputs that they had"
        return Unchanged(told, config, steps[-1].config)
    earlier = _last(config) if _have_their_inputs(steps[:1]) else None
    if earlier is None or not _only_the_listing_differs(steps[0], earlier):
        return None
    before = replace(config, run=replace(config.run, name=earlier))
    if not _have_their_inputs(others := chain(before)[1:]):
        return None
    place = shard.output_location(steps[0].config)
    told = (
        f"no photo that can be trained on has come since run {earlier} ({place}/{REPORT} names "
        "what is left out, and why)"
    )
    return Unchanged(told, before, others[-1].config)


def _have_their_inputs(steps: Sequence[Step]) -> bool:
    """Returns whether steps have the inputs with which they have succeeded."""
    for step in steps:
        record = load(records_of(step.config), step.name)
        if record is None or changed(record, step.inputs()):
            return False
    return True


def _last(config: Config) -> str | None:
    """Returns the `run.name` of the model's last retraining that registered a version."""
    for record in Retrainings(model_store(config)).all():
        if record.registered is not None:
            return record.run if record.run != config.run.name else None
    return None


def _only_the_listing_differs(step: Step, run: str) -> bool:
    """Returns whether a run sharded its photos from another listing, and all else was the same.

    Args:
        step: the step that shards the photos of this retraining.
    """
    other = replace(step.config, run=replace(step.config.run, name=run))
    record = load(records_of(other), step.name)
    return record is not None and changed(record, step.inputs()) == ["source"]
