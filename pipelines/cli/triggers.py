"""Starts retrainings: `srmill watch` when photos have come, `srmill hook` when somebody asks."""

import argparse
import os
import sys
import time
from typing import Any

from pipelines.errors import Terminated, UserError
from pipelines.registry.stale import tell_if_stale
from pipelines.storage.clock import Clock, utc
from pipelines.triggers import Limits, Poll, Status, Watch, choose_starter
from pipelines.triggers.hook import PATH, Hook, serve
from pipelines.triggers.starters import CODES
from pipelines.triggers.ticks import skipped

#: The largest number of hours or seconds: three years of either.
_MOST_HOURS, _MOST_SECONDS = 26_280, 94_608_000
#: The variable with the token of the hook, and its least length.
TOKEN, _SHORTEST = "SRMILL_HOOK_TOKEN", 16


def add_commands(commands: Any) -> None:
    """Adds `watch` and `hook` to the command line."""
    watch = commands.add_parser(
        "watch",
        help="start a retraining when new photos have come",
        description="Polls a folder or an s3:// prefix, and starts jobs/retrain.py on it when "
        "enough photos or hours have come since the last start. It compares names, sizes and "
        "ETags, and reads no photo. It remembers what it saw: started again, it starts nothing "
        "twice, and goes on with a retraining that was interrupted. Write the settings of the job "
        "right after SOURCE.",
    )
    add_source(watch)
    watch.add_argument(
        "--photos",
        type=int,
        metavar="N",
        help="new photos that start a retraining (default: 1, without --hours)",
    )
    watch.add_argument(
        "--hours", type=float, metavar="M", help="hours after which one is started in any case"
    )
    watch.add_argument(
        "--every",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="pause between two polls (default: %(default)g)",
    )
    watch.add_argument(
        "--tick",
        metavar="TIME",
        help="with --once: the time that the schedule meant, in UTC, such as 02:00 or "
        "2026-11-29T02:00:00Z; a poll that comes too late starts nothing",
    )
    watch.add_argument(
        "--max-delay",
        metavar="LENGTH",
        help="how late a poll may come after --tick, such as 3h or 1d (default: 1h)",
    )
    watch.add_argument("--now", action="store_true", help="start one at the first poll")
    watch.add_argument("--once", action="store_true", help="poll once and end, as for cron")
    watch.add_argument("--dry-run", action="store_true", help="poll once, and start nothing")
    watch.set_defaults(run=_watch)
    hook = commands.add_parser(
        "hook",
        help="start a retraining when somebody posts to it",
        description=f"Serves POST {PATH} over plain HTTP: it starts jobs/retrain.py on the photos "
        f"of SOURCE. A request shows the token of ${TOKEN}, as Authorization: Bearer TOKEN. "
        "Answers: 202 started, 401 wrong token, 409 one runs already or there is no photo, 429 "
        "asked too often, 503 the source or the cluster is away. What watch and hook start for "
        "one run.name, each knows of the other. Write the settings of the job right after SOURCE.",
    )
    add_source(hook)
    hook.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen at (default: %(default)s; put a proxy with TLS before another)",
    )
    hook.add_argument(
        "--port", type=int, default=8787, help="the port, 0 for a free one (default: %(default)d)"
    )
    hook.add_argument(
        "--every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="least time between two requests with the token (default: %(default)g)",
    )
    hook.set_defaults(run=_hook)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds what each trigger needs: the source, the settings of the job, where it runs."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder or an s3:// prefix of photos; a relative folder lies in $SRMILL_HOME, or "
        "else in the current one",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings of jobs/retrain.py; each set of photos gets a run of its own, run.name and "
        "a digest",
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the job server of the cluster that runs the job (default: $RAY_API_SERVER_ADDRESS, "
        "or $RAY_ADDRESS if it is http(s); without one the job runs on this machine)",
    )
    parser.add_argument(
        "--state",
        metavar="PLACE",
        default=CODES,
        help="folder or s3:// prefix that remembers what was seen (default: %(default)s)",
    )


def open_watch(parsed: argparse.Namespace) -> Watch:
    """Returns the trigger that the command line describes.

    Raises:
        UserError: the source, a setting or the address is wrong.
    """
    return Watch(parsed.source, parsed.settings, choose_starter(parsed.address), parsed.state)


def _limits(parsed: argparse.Namespace) -> Limits:
    photos = 1 if parsed.photos is None and parsed.hours is None else parsed.photos
    if photos is not None and photos < 1:
        raise UserError(f"--photos must be at least 1, not {photos}.")
    if parsed.hours is not None and not 0 < parsed.hours <= _MOST_HOURS:
        raise UserError(f"--hours must be more than 0 and at most {_MOST_HOURS}.")
    _check_every(parsed)
    return Limits(photos, parsed.hours)


def _check_every(parsed: argparse.Namespace) -> None:
    if not 1 <= parsed.every <= _MOST_SECONDS:
        raise UserError(f"--every must be 1 to {_MOST_SECONDS} seconds.")


def _watch(parsed: argparse.Namespace, clock: Clock = Clock()) -> int:
    limits, watch = _limits(parsed), open_watch(parsed)
    try:
        if late := _late(parsed):
            print(f"{utc(time.time())} {watch.source}: {late}", flush=True)
            tell_if_stale(watch.config)
            return 0
        if parsed.dry_run:
            print(watch.poll(limits, time.time(), asked=parsed.now, dry=True).line)
            return 0
        # A mistake in the command ends the first poll; later ones wait for what comes back.
        code = _poll(watch, limits, asked=parsed.now)
        while not parsed.once:
            clock.sleep(parsed.every)
            try:
                _poll(watch, limits)
            except UserError as error:
                print(f"{utc(time.time())} {error} The next poll tries again.", file=sys.stderr)
        return code
    except (KeyboardInterrupt, Terminated) as error:
        return _stop(watch, error)


def _late(parsed: argparse.Namespace) -> str | None:
    """Returns in words why this tick of a schedule is skipped; None if it is not."""
    if parsed.tick is None:
        if parsed.max_delay is not None:
            raise UserError("--max-delay needs --tick, the time that the schedule meant.")
        return None
    if not parsed.once:
        raise UserError("--tick is for schedules: give --once as well.")
    return skipped(parsed.tick, parsed.max_delay or "1h", time.time())


def _hook(parsed: argparse.Namespace) -> int:
    _check_every(parsed)
    token = os.environ.get(TOKEN, "")
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable():
        raise UserError(
            f"${TOKEN} must hold a token of at least {_SHORTEST} letters and digits: make one by "
            "openssl rand -hex 32."
        )
    watch = open_watch(parsed)

    def tell(port: int) -> None:
        print(f"Listens at http://{parsed.host}:{port}{PATH}", flush=True)

    try:
        serve(Hook(watch, token, parsed.every), parsed.host, parsed.port, tell)
    except (KeyboardInterrupt, Terminated) as error:
        return _stop(watch, error)
    return 0


def _stop(watch: Watch, error: BaseException) -> int:
    watch.stop()
    print("stopped: the same command goes on.", file=sys.stderr)
    return 143 if isinstance(error, Terminated) else 130


def _poll(watch: Watch, limits: Limits, *, asked: bool = False) -> int:
    """Polls once; returns 1 if a job that it started on this machine failed, or was stopped by its
    budget."""
    poll = watch.poll(limits, time.time(), asked=asked)
    print(poll.line, flush=True)
    status = _wait(watch, poll)
    tell_if_stale(watch.config)
    return int(status in (Status.FAILED, Status.STOPPED))


def _wait(watch: Watch, poll: Poll) -> Status | None:
    if poll.started is None:
        return None
    status = watch.wait(poll.started)
    if status not in (Status.ABSENT, Status.RUNS):
        print(f"{utc(time.time())} {poll.started} {status.told}.", flush=True)
    return status
