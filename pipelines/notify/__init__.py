"""Tells people what became of a retraining: by a webhook, by mail."""

from pipelines.notify.channels import Channel, choose_channels, people
from pipelines.notify.notification import Event, Notification, make_notification
from pipelines.notify.send import deliver, deliver_once, note

__all__ = [
    "Channel",
    "Event",
    "Notification",
    "choose_channels",
    "deliver",
    "deliver_once",
    "make_notification",
    "note",
    "people",
]
