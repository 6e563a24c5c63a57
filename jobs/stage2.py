#!/usr/bin/env python3
"""Trains the stages that the recipe lists under `stage2`, in order, or resumes them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines.job import main
from pipelines.training.launch import run_stages
from pipelines.training.plan import KEYS, plan_stages

if __name__ == "__main__":
    main(
        "jobs/stage2.py",
        __doc__,
        KEYS,
        lambda config: plan_stages(config, config.stage2),
        lambda config: run_stages(config, config.stage2),
    )
