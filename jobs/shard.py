#!/usr/bin/env python3
"""Cuts photos into webdataset shards with a manifest: the dataset that training reads."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines.data import shard
from pipelines.job import main

if __name__ == "__main__":
    main(
        "jobs/shard.py",
        __doc__,
        (
            "source",
            "mirror",
            "data",
            "output",
            "verify",
            "preview",
            "shard",
            "stream",
            "degradation",
            "train.crop",
            "gate.benchmark",
            "benchmark",
        ),
        shard.plan,
        shard.run,
    )
