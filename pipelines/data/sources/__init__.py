"""Finds and reads photos in folders, archives, object storage, public sets and the sample."""

from pipelines.data.sources.entries import Entry, is_photo_name, read
from pipelines.data.sources.find import SAMPLE, describe_source, find_entries
from pipelines.data.sources.inventory import Inventory, Photo, Skipped
from pipelines.data.sources.known import KnownFiles

__all__ = [
    "SAMPLE",
    "Entry",
    "Inventory",
    "KnownFiles",
    "Photo",
    "Skipped",
    "describe_source",
    "find_entries",
    "is_photo_name",
    "read",
]
