#!/usr/bin/env python3
"""Measures a model and others on the validation split or on benchmark sets, and writes a report."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines.evaluation import evaluate
from pipelines.job import main

if __name__ == "__main__":
    main(
        "jobs/evaluate.py",
        __doc__,
        (
            "model",
            "data",
            "shard.max_megapixels",
            "stream",
            "output",
            "benchmark",
            "degradation",
            "evaluate",
            "gate.benchmark",
            "gate.digest",
            "export.tile",
            "export.weights",
        ),
        evaluate.plan,
        evaluate.run,
    )
