#!/usr/bin/env python3
"""Registers a bundle as a model version in MLflow; it becomes champion if the gate lets it.

action=promote, rollback, history and verify move the champion, tell its moves, and check them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines.job import main
from pipelines.registry import actions

if __name__ == "__main__":
    main(
        "jobs/register.py",
        __doc__,
        (
            "action",
            "bundle",
            "model",
            "stream",
            "shard.max_megapixels",
            "degradation",
            "evaluate.metrics",
            "evaluate.crop_border",
            "export.latency_runs",
            "register",
            "gate",
        ),
        actions.plan,
        actions.run,
    )
