"""Removes what nobody needs any more (`srmill prune`), after it has shown what that is."""

import argparse
import time
from typing import Any

from pipelines.config.durations import seconds
from pipelines.config.load import load_config
from pipelines.errors import UserError, aligned, printable
from pipelines.retention.runs import Rule, Run, find_runs, remove

#: The largest number of retrainings to keep.
_MOST = 10_000


def add_prune(commands: Any) -> None:
    """Adds `prune` to the command line."""
    parser = commands.add_parser(
        "prune",
        help="remove the checkpoints of old retrainings",
        description="Shows which runs in run.storage may go, and removes them with --delete. A run "
        "may go if a retraining made it (retrain.records says so) that ended long ago, that is "
        "none of the newest, and whose version is neither champion nor previous. Versions, "
        "bundles, shards and records stay; so does every run that no retraining made.",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings, such as run.storage=s3://… retrain.records=s3://…",
    )
    parser.add_argument(
        "--older-than",
        default="30d",
        metavar="LENGTH",
        help="how long ago its retraining must have ended, such as 36h (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=int,
        default=3,
        metavar="N",
        help="keep the newest N retrainings of each model in any case (default: %(default)d)",
    )
    parser.add_argument("--delete", action="store_true", help="remove them, instead of showing")
    parser.set_defaults(run=_prune)


def _prune(parsed: argparse.Namespace) -> int:
    config = load_config(parsed.settings)
    if not 0 <= parsed.keep <= _MOST:
        raise UserError(f"--keep must be 0 to {_MOST}, not {parsed.keep}.")
    now = time.time()
    rule = Rule(now - seconds("--older-than", parsed.older_than), parsed.keep)
    runs = find_runs(config, rule, now)
    if not runs:
        print(f"There is no run in {config.run.storage}.")
        return 0
    print("\n".join(aligned([("run", "size", "verdict", "ended", ""), *map(_row, runs)])))
    going = [run for run in runs if run.kept is None]
    size = _mib(sum(run.bytes for run in going))
    if not going:
        print("Nothing may go.")
    elif parsed.delete:
        remove(config, going)
        print(f"Removed {len(going)} of {len(runs)} runs: {size}.")
    else:
        print(f"{len(going)} of {len(runs)} runs may go: {size}. --delete removes them.")
    return 0


def _row(run: Run) -> tuple[str, ...]:
    made = run.retraining
    about = (str(made.verdict), made.ended or "") if made else ("", "")
    fate = "may go" if run.kept is None else f"stays: {run.kept}"
    return tuple(map(printable, (run.name, _mib(run.bytes), *about, fate)))


def _mib(number: int) -> str:
    return f"{number / 2**20:.1f} MiB"
