#!/usr/bin/env python3
"""Trains one stage of a recipe by name (stage=NAME), or resumes it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.job import main
from pipelines.training.launch import run_stages
from pipelines.training.plan import chosen_stage, plan_stages

if __name__ == "__main__":
    main(
        "jobs/train.py",
        __doc__,
        ("stage", "data", "stream", "degradation", "train"),
        lambda config: plan_stages(config, [chosen_stage(config)]),
        lambda config: run_stages(config, [chosen_stage(config)]),
    )
