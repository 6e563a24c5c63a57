"""Tells that a retraining has nothing to do, since a version came of the same photos and settings.

Nothing is written, and no photo is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.data.ownership import REPORT
from pipelines.models.load import CHAMPION
from pipelines.registry import register
from pipelines.registry.moves import Moves
from pipelines.retrain.history import Retraining, Retrainings, model_store
from pipelines.retrain.records import changed, load, records_of
from pipelines.retrain.steps import Step, chain
from pipelines.revision import git_commit


@dataclass(frozen=True)
class Unchanged:
    """A retraining whose result would be that of an earlier one.

    Attributes:
        reason: why, in words.
        config: the configuration of the earlier one.
        register: that of its last step, which registered the result.
        champions: the versions that may be champion; None: any, or none.
    """

    reason: str
    config: Config
    register: Config
    champions: tuple[str | None, ...] | None = None


def settled(
    config: Config, steps: Sequence[Step], *, sharded: bool = False
) -> tuple[str, Unchanged] | None:
    """Returns the version that came of an earlier retraining which this one would repeat; None if
    it would not, the registry no longer has the version, or somebody has moved the champion.

    Args:
        sharded: as in `unchanged`.

    Raises:
        UserError: an input or a record cannot be read, or the registry does not answer.
    """
    if (found := unchanged(config, steps, sharded=sharded)) is None:
        return None
    version = register.registered(found.register)
    if version is None or (found.champions and _champion(config) not in found.champions):
        return None
    return version, found


def unchanged(config: Config, steps: Sequence[Step], *, sharded: bool = False) -> Unchanged | None:
    """Returns the earlier retraining that a chain would repeat; None if it would not.

    It would, if no input of its steps has changed since they succeeded. It would also, once its
    photos are sharded, if the model's last retraining had the same dataset, settings and code, and
    another listing of the source: what came since gave no photo to train on.

    Args:
        sharded: True where the photos were sharded just now, and those that came meanwhile wait for
            the next retraining.

    Raises:
        UserError: an input or a record cannot be read.
    """
    if _have_their_inputs(steps[1:] if sharded else steps):
        told = f"all {len(steps)} steps have the inputs that they had"
        return Unchanged(told, config, steps[-1].config)
    if not sharded and not _have_their_inputs(steps[:1]):
        return None
    earlier = _last(config)
    if earlier is None or not _only_the_listing_differs(steps[0], earlier.run):
        return None
    before = replace(config, run=replace(config.run, name=earlier.run))
    if not _have_their_inputs(others := chain(before)[1:]):
        return None
    place = shard.output_location(steps[0].config)
    told = (
        f"no photo that can be trained on has come since run {earlier.run} ({place}/{REPORT} names "
        "what is left out, and why)"
    )
    champions = earlier.given.champion, earlier.registered
    return Unchanged(told, before, others[-1].config, champions)


def _have_their_inputs(steps: Sequence[Step]) -> bool:
    """Returns whether steps have the inputs with which they have succeeded."""
    for step in steps:
        record = load(records_of(step.config), step.name)
        if record is None or changed(record, step.inputs()):
            return False
    return True


def _champion(config: Config) -> str | None:
    assert config.mlflow.model is not None
    return Moves(tracking.connect(config.mlflow), config.mlflow.model).alias(CHAMPION)


def _last(config: Config) -> Retraining | None:
    """Returns the model's last retraining that registered a version, if it is another one and had
    this code."""
    for record in Retrainings(model_store(config)).all():
        if record.registered is not None:
            same = record.run != config.run.name and record.given.code == git_commit()
            return record if same else None
    return None


def _only_the_listing_differs(step: Step, run: str) -> bool:
    """Returns whether a run sharded its photos from another listing, and all else was the same.

    Args:
        step: the step that sharded the photos of this retraining.
    """
    other = replace(step.config, run=replace(step.config.run, name=run))
    now, before = (load(records_of(config), step.name) for config in (step.config, other))
    return now is not None and before is not None and changed(before, now.inputs) == ["source"]
