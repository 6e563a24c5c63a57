"""Tells people what became of a retraining: promoted, refused or failed."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.errors import UserError, first_line, listing
from pipelines.models.load import CHAMPION
from pipelines.notify import Event, channels, deliver, deliver_once, note, notification
from pipelines.registry.moves import PROMOTE, Moves
from pipelines.registry.register import GATE_TAG
from pipelines.registry.stale import tell_if_stale
from pipelines.retrain.records import records_of

#: The name of the document, among the records of a chain, that says what was told.
TOLD = "told.json"


def people(config: Config) -> str:
    """Returns in words who is told; an empty text if nobody is.

    Raises:
        UserError: an address has another form, or no server sends the mail.
    """
    return listing((way.name for way in channels(config.notify)), " and ")


@contextmanager
def failures(config: Config) -> Iterator[None]:
    """Tells that the block failed, and lets the error pass. A job that somebody stops did not.

    Raises:
        UserError: an address has another form, or no server sends the mail.
    """
    ways = channels(config.notify)
    try:
        yield
    except Exception as error:
        # An error from a Ray task carries the remote traceback; its cause does not.
        cause = getattr(error, "cause", error)
        deliver(notification(config, Event.FAILED, first_line(cause)), ways)
        raise


def outcome(config: Config, version: str) -> None:
    """Tells how the gate decided about the version of a chain, unless all know it already; and
    whether the model is stale.

    Args:
        version: the registered version that the chain led to.
    """
    ways = channels(config.notify)
    if not ways:
        return
    try:
        event, reason = _decided(config, version)
    except UserError as error:
        note(f"could not find out what to tell about version {version}: {error}")
        return
    assert config.run.name is not None
    deliver_once(
        notification(config, event, reason, version),
        f"{event} {version}: {reason}",
        ways,
        records_of(config.run.name),
        TOLD,
    )
    tell_if_stale(config)


def _decided(config: Config, version: str) -> tuple[Event, str]:
    """Returns how the gate decided about a version, and why; later moves do not change that."""
    client, name = tracking.connect(config.mlflow), config.mlflow.model
    assert name is not None
    moves = Moves(client, name)
    reason = client.get_model_version(name, version).tags.get(GATE_TAG, "")
    became = any(move.kind == PROMOTE and move.to == version for move in moves.all())
    promoted = became or moves.alias(CHAMPION) == version
    return Event.PROMOTED if promoted else Event.REFUSED, reason
