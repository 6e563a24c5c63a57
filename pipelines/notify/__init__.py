"""Tells people what became of a retraining: by a webhook, by mail."""

from pipelines.notify.channels import Channel, channels
from pipelines.notify.notification import Event, Notification, notification
from pipelines.notify.send import deliver, deliver_once, note

__all__ = [
    "Channel",
    "Event",
    "Notification",
    "channels",
    "deliver",
    "deliver_once",
    "note",
    "notification",
]
