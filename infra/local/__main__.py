"""Runs `python -m infra.local up | down | demo`."""

import sys

from pipelines import interrupts

interrupts.end_quietly(__name__)

from infra.local.demo import demo
from infra.local.platform import PlatformError, down, state_file, up
from pipelines.errors import UserError
from pipelines.storage.paths import ROOT


def main() -> int:
    commands = {"up": lambda: print(up().describe()), "down": down, "demo": demo}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        print(f"usage: python -m infra.local {' | '.join(commands)}", file=sys.stderr)
        return 2
    try:
        interrupts.raise_again()
        commands[sys.argv[1]]()
    except (PlatformError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        runs = state_file(ROOT).exists()
        told = "what runs keeps running; `make down` stops it" if runs else "nothing runs"
        print(f"interrupted: {told}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
