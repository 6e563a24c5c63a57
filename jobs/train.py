#!/usr/bin/env python3
"""Trains one stage of a recipe by name (stage=NAME), or resumes it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines.job import main
from pipelines.training.launch import run_chosen_stage
from pipelines.training.plan import KEYS, plan_chosen_stage

if __name__ == "__main__":
    main(
        "jobs/train.py",
        __doc__,
        ("stage", *KEYS),
        plan_chosen_stage,
        run_chosen_stage,
    )
