"""Starts jobs/retrain.py when photos have come, or somebody asks; remembers what it started."""

from pipelines.triggers.starters import Starter, Status, choose_starter
from pipelines.triggers.watch import Limits, Poll, Watch

__all__ = ["Limits", "Poll", "Starter", "Status", "Watch", "choose_starter"]
