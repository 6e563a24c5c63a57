"""Finds and reads photos in folders, archives, object storage, public sets and the sample."""

from pipelines.data.sources.entries import Entry, is_photo_name, read
from pipelines.data.sources.find import SAMPLE, describe_source, find_entries
from pipelines.data.sources.inspect import Inventory, Photo, Skipped, inspect

__all__ = [
    "SAMPLE",
    "Entry",
    "Inventory",
    "Photo",
    "Skipped",
    "describe_source",
    "find_entries",
    "inspect",
    "is_photo_name",
    "read",
]
