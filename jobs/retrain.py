#!/usr/bin/env python3
"""Runs the whole chain: shard, the recipe's stages, evaluate, export, register. It resumes.

action=history lists all retrainings of mlflow.model: photos, steps, cost, and what the gate said.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines import retrain
from pipelines.job import main

if __name__ == "__main__":
    main(
        "jobs/retrain.py",
        __doc__,
        (
            "action",
            "source",
            "mirror",
            "data",
            "output",
            "benchmark",
            "preview",
            "shard",
            "stream",
            "degradation",
            "train",
            "evaluate",
            "export",
            "register",
            "gate",
            "retrain",
            "notify",
        ),
        retrain.plan,
        retrain.run,
    )
