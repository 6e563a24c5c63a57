"""The document that tells one thing which happened to a model."""

import socket
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pipelines.config.schema import Config
from pipelines.errors import printable, redacted
from pipelines.storage.clock import utc
from pipelines.storage.typed import Document

#: Characters of a reason that are told.
_LONGEST = 2000


class Event(StrEnum):
    """An event that people are told: of a version, of a retraining, of none for long, or of the
    photos that a model gets."""

    PROMOTED = "promoted"
    REFUSED = "refused"
    #: The gate was not asked: register.promote=never.
    REGISTERED = "registered"
    FAILED = "failed"
    STALE = "stale"
    DRIFT = "drift"


@dataclass(frozen=True)
class Notification(Document):
    """The news that a webhook gets as JSON, and a mail as text.

    Attributes:
        event: one of `Event`.
        text: all of it in a sentence. Chat servers show this key.
        model: the model's name.
        model_version: the version that it is about; None if it is about none.
        run: the `run.name` of the retraining.
        reason: why, with the figures of the gate; the error of a retraining that failed.
        host: the machine that tells it.
        time: the time in UTC, as 2026-11-29T08:00:00Z.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "wait for the next one"

    event: str
    text: str
    model: str
    model_version: str | None
    run: str
    reason: str
    host: str
    time: str


def make_notification(
    config: Config,
    event: Event,
    reason: str,
    version: str | None = None,
    model: str | None = None,
) -> Notification:
    """Returns the news of an event; no address in the reason has a password.

    Args:
        model: the model that it is about; the recipe's registered model, if it is None.
    """
    model = model or config.mlflow.model
    assert model is not None
    assert config.run.name is not None
    reason = printable(redacted(" ".join(reason.split())))[:_LONGEST]
    about = f"{model} version {version}" if version else model
    said = {
        Event.PROMOTED: f"{about} is the champion",
        Event.REFUSED: f"{about} was not promoted",
        Event.REGISTERED: f"{about} is registered, and the gate was not asked",
        Event.FAILED: f"the retraining of {about} failed",
        Event.STALE: f"{about} has had no promotion for long",
        Event.DRIFT: f"{about} sees other photos than before",
    }[event]
    return Notification(
        event=str(event),
        text=f"{said}: {reason}",
        model=model,
        model_version=version,
        run=config.run.name,
        reason=reason,
        host=socket.gethostname(),
        time=utc(time.time()),
    )
