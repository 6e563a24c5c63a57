"""The `srmill` command. It answers Ctrl-C before it imports what it needs, which takes seconds."""

from collections.abc import Sequence

from pipelines import interrupts


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the console script; exits the process on errors."""
    interrupts.end_quietly()
    from pipelines.cli.command import run

    run(arguments)
