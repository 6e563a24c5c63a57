#!/usr/bin/env python3
"""Measures a model on the photos that are new in source=, and says whether they or NIQE drift.

Each tick adds a record to a history, draws it over time, and logs the same figures to MLflow. Whom
notify.* names is told of drift. The exit code is 0 with drift and without.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines.evaluation import shadow
from pipelines.job import main

if __name__ == "__main__":
    main(
        "jobs/shadow.py",
        __doc__,
        (
            "source",
            "mirror",
            "model",
            "output",
            "shard.max_megapixels",
            "shard.max_file_mib",
            "shard.max_unpacked_gib",
            "stream",
            "export.tile",
            "shadow",
            "notify",
        ),
        shadow.plan,
        shadow.run,
    )
