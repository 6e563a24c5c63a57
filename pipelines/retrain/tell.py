"""Tells people what became of a retraining: promoted, refused, registered or failed."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.errors import BusyError, UserError, first_line
from pipelines.notify import Event, choose_channels, deliver, deliver_once, make_notification, note
from pipelines.registry.register import Outcome
from pipelines.registry.stale import TOLD_TAG, tell_if_stale


@contextmanager
def failures(config: Config) -> Iterator[None]:
    """Tells that the block failed, and lets the error pass. A job that somebody stops did not, nor
    one that found another at work.

    Raises:
        UserError: an address has another form, or no server sends the mail.
    """
    ways = choose_channels(config.notify)
    try:
        yield
    except BusyError:
        raise
    except Exception as error:
        # An error from a Ray task carries the remote traceback; its cause does not.
        cause = getattr(error, "cause", None) or error
        deliver(make_notification(config, Event.FAILED, first_line(cause)), ways)
        raise


def outcome(config: Config, version: str) -> None:
    """Tells how the gate decided about the version of a chain, unless all know it already; and
    whether the model is stale.

    Args:
        version: the registered version that the chain led to.
    """
    ways, name = choose_channels(config.notify), config.mlflow.model
    assert name is not None
    if not ways:
        return
    try:
        client = tracking.connect(config.mlflow)
        tags = client.get_model_version(name, version).tags
    except UserError as error:
        note(f"could not find out what to tell about version {version}: {error}")
        return
    found = Outcome.of(tags)
    event = _event(found)
    deliver_once(
        make_notification(config, event, found.reason, version),
        f"{event}: {found.reason}",
        ways,
        tags.get(TOLD_TAG),
        lambda text: client.set_model_version_tag(name, version, TOLD_TAG, text),
    )
    tell_if_stale(config)


def _event(found: Outcome) -> Event:
    if found.refused:
        return Event.REFUSED
    return Event.PROMOTED if found.promoted else Event.REGISTERED
