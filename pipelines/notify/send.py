"""Delivers notifications: tries a few times, says in one line what failed, and never raises."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipelines.errors import UserError, listing
from pipelines.notify.channels import Channel, DeliveryError
from pipelines.notify.notification import Notification
from pipelines.storage.clock import Clock
from pipelines.storage.typed import Document, read_typed, to_json

#: The pauses before the second and the third attempt, seconds.
PAUSES_S = (2.0, 8.0)


@dataclass(frozen=True)
class Told(Document):
    """The newest notification of a kind that people were told, and how."""

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "let the next notification replace it"

    what: str
    by: tuple[str, ...]


def deliver(
    notification: Notification, channels: Sequence[Channel], clock: Clock = Clock()
) -> list[str]:
    """Sends a notification by each channel; returns the names of those that took it.

    It prints a line for each channel. Whatever fails, it raises nothing: no job fails because
    nobody could be told about it.
    """
    taken = []
    for channel in channels:
        failure = _attempt(notification, channel, clock)
        if failure is None:
            taken.append(channel.name)
            print(f"Told {channel.name}: {notification.event}.", flush=True)
        else:
            note(f"could not tell {channel.name}: {notification.event} ({failure}).")
    return taken


def _attempt(notification: Notification, channel: Channel, clock: Clock) -> str | None:
    """Sends a notification; returns why it did not arrive, if it did not."""
    for pause in (*PAUSES_S, None):
        try:
            channel.send(notification)
        except DeliveryError as error:
            if pause is None or not error.again:
                return str(error)
            clock.sleep(pause)
        except Exception as error:
            # What a server of somebody else provokes. Its text may repeat a secret.
            return type(error).__name__
        else:
            return None
    raise AssertionError("the last attempt returns")


def deliver_once(
    notification: Notification,
    what: str,
    channels: Sequence[Channel],
    remembered: str | None,
    remember: Callable[[str], object],
    clock: Clock = Clock(),
) -> None:
    """Sends a notification by those channels that have not taken it yet.

    What could not be delivered is tried again by the next call.

    Args:
        what: tells the notification from the one before of its kind.
        remembered: the text that `remember` got last; None if it never got one.
        remember: keeps a text, or raises UserError.
    """
    before = _told(remembered)
    done = before.by if before is not None and before.what == what else ()
    left = [channel for channel in channels if channel.name not in done]
    if left and (taken := deliver(notification, left, clock)):
        try:
            remember(to_json(Told(what, (*done, *taken))).decode())
        except UserError as error:
            note(f"{listing(taken)} will be told the same again: {error}")


def note(text: str) -> None:
    """Prints a line that changes no result."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def _told(remembered: str | None) -> Told | None:
    if remembered is None:
        return None
    try:
        return read_typed(Told, remembered.encode(errors="replace"), "what was told last")
    except UserError as error:
        note(str(error))
        return None
