#!/usr/bin/env python3
"""Exports trained, evaluated weights as a bundle: ONNX checked against PyTorch, and the evidence.

model= defaults to the run of the recipe's last stage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import interrupts

interrupts.end_quietly(__name__)

from pipelines.export import export
from pipelines.job import main

if __name__ == "__main__":
    main(
        "jobs/export.py",
        __doc__,
        ("model", "data", "stream", "output", "benchmark", "evaluate.preset", "export"),
        export.plan,
        export.run,
    )
