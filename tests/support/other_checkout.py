"""Runs `srmill` so that it starts the jobs of another checkout, which the first argument names."""

import sys
from pathlib import Path

from pipelines.cli import main
from pipelines.triggers import starters

if __name__ == "__main__":
    starters.ROOT = Path(sys.argv[1])
    main(sys.argv[2:])
