"""Runs `python -m infra.local up | down | status | demo | backup | restore`."""

import argparse
import sys
from pathlib import Path

from pipelines import interrupts

interrupts.end_quietly(__name__)

from infra.local.backup import backup, restore
from infra.local.demo import demo
from infra.local.keeper import keep
from infra.local.platform import down, state_file, up
from infra.local.servers.server import PlatformError
from infra.local.status import status
from pipelines.errors import UserError
from pipelines.storage.paths import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument(
        "command", choices=("up", "down", "status", "demo", "keep", "backup", "restore")
    )
    parser.add_argument("home", nargs="?", default=ROOT, type=Path, help="where work/ lies")
    parser.add_argument(
        "--full", action="store_true", help="with PostgreSQL, S3, passwords and TLS"
    )
    parser.add_argument("--folder", type=Path, help="the backup: a new folder, or one to restore")
    parsed = parser.parse_args()
    if parsed.command in ("backup", "restore") and parsed.folder is None:
        parser.error(f"{parsed.command} needs --folder (`make {parsed.command} FOLDER=…`).")
    commands = {
        "up": lambda: print(up(parsed.home, parsed.full).describe()),
        "down": lambda: down(parsed.home),
        "status": lambda: print(status(parsed.home)),
        "demo": lambda: demo(parsed.home, parsed.full),
        "keep": lambda: keep(parsed.home),
        "backup": lambda: print(backup(parsed.home, parsed.folder).describe(parsed.folder)),
        "restore": lambda: print(restore(parsed.home, parsed.folder).describe(parsed.folder)),
    }
    try:
        interrupts.raise_again()
        commands[parsed.command]()
    except (PlatformError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        runs = state_file(parsed.home).exists()
        told = "what runs keeps running; `make down` stops it" if runs else "nothing runs"
        print(f"interrupted: {told}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
