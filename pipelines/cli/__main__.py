"""Runs `python -m pipelines.cli`, which is the `srmill` command."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
