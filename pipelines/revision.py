"""Tells which commit this checkout is."""

import os
import subprocess

from pipelines.storage.paths import ROOT


def git_commit() -> str | None:
    """Returns the commit of this checkout, with `+dirty` if it was edited.

    Outside of a checkout: $SRMILL_GIT_COMMIT, else None.
    """
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SRMILL_GIT_COMMIT") or None
    return commit + "+dirty" * bool(status)
