"""Runs the files in jobs/: their arguments, --help, --dry-run, and errors in one sentence."""

import gc
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from pipelines import interrupts
from pipelines.config.load import documented_keys, load_config, recipe_names, to_yaml
from pipelines.config.schema import Config
from pipelines.errors import (
    BudgetSpentError,
    BusyError,
    NotPromotedError,
    Terminated,
    UserError,
    listing,
    redacted,
)
from pipelines.standard_output import standard_output

_HELP, _DRY_RUN = {"-h", "--help"}, {"--dry-run", "--dry-run=full"}
#: The exit code of a job that has registered a model which the gate refused.
NOT_PROMOTED = 3
#: The exit codes of a job that its budget stopped, and of one that found another one at work.
BUDGET_SPENT, BUSY = 4, 5
#: Keys that every job understands.
COMMON = ("recipe", "seed", "run.name", "run.storage", "run.scratch", "mlflow")


def main(
    program: str,
    description: str,
    keys: Sequence[str],
    plan: Callable[[Config], str],
    work: Callable[[Config], Any],
    *,
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs a job. A job that fails ends the process: with code 2 for a UserError, 3 for a model
    that the gate refused, 4 for a budget that is spent, 5 where another job does the same work, 143
    for SIGTERM, 130 for an interrupt.

    Args:
        program: the command that a user starts, for `--help`, such as `jobs/NAME.py`.
        description: the text that `--help` shows.
        keys: keys or sections that the job uses besides `COMMON`; `--help` lists them.
        plan: says in words what the job would do; raises UserError for what cannot work.
        work: does the job.
        arguments: those of the command line, instead of `sys.argv`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _spare_modules()
    with standard_output():
        try:
            interrupts.raise_again()
            settings = [a for a in arguments if a not in {*_HELP, *_DRY_RUN}]
            if _HELP & set(arguments):
                print(help_text(program, description, keys, settings), flush=True)
                raise SystemExit(0)
            config = load_config(settings)
            if wanted := _DRY_RUN & set(arguments):
                whole = f"{to_yaml(config)}\n" if "--dry-run=full" in wanted else ""
                print(redacted(f"{whole}Plan: {plan(config)}"), flush=True)
                raise SystemExit(0)
            work(config)
        except UserError as error:
            # An error from a Ray task carries the remote traceback; its cause does not.
            _exit(f"error: {getattr(error, 'cause', error)}", 2)
        except NotPromotedError as error:
            _exit(f"not promoted: {redacted(str(error))}", NOT_PROMOTED)
        except BudgetSpentError as error:
            _exit(f"stopped: {redacted(str(error))}", BUDGET_SPENT)
        except BusyError as error:
            _exit(f"busy: {redacted(str(error))}", BUSY)
        except Terminated as error:
            _exit(f"terminated: {error}", 128 + signal.SIGTERM)
        except KeyboardInterrupt:
            _exit("interrupted: start the same command again to go on.", 130)


def _spare_modules() -> None:
    """Keeps the garbage collector from looking at what was imported, time and again: that is an
    eighth of the time of a job that finds nothing to do."""
    if not gc.get_freeze_count():
        gc.freeze()


def help_text(
    program: str, description: str, keys: Sequence[str], settings: Sequence[str] = ()
) -> str:
    """Returns the text of `--help`: usage, and the job's keys with their defaults and meaning.

    A value of the recipe, or of the command line, stands beside the default that it replaces.

    Args:
        settings: the arguments `key=value` of the command line.

    Raises:
        UserError: the recipe or a setting is wrong.
    """
    wanted, config = (*COMMON, *keys), load_config(settings)
    rows = [
        f"  {key + '=' + _show(default):<38} {meaning}{_replaced(config, key, default)}"
        for key, default, meaning in documented_keys()
        if any(key == w or key.startswith(f"{w}.") for w in wanted)
    ]
    usage = f"usage: {program} [key=value ...] [--dry-run[=full]] [--help]"
    note = (
        "Any other key of the recipe can be set too; stages.<name>.train.<key> sets train.<key> "
        f"for one stage. Recipes: {listing(recipe_names())}. Relative paths are resolved "
        "against $SRMILL_HOME, else the current directory; a recipe's always against the "
        "latter. --dry-run prints the plan, --dry-run=full the configuration before it. "
        f"[Values in brackets] are those of recipe={config.recipe}, with your arguments."
    )
    body = textwrap.dedent(description).strip()
    return "\n".join([usage, "", body, "", *rows, "", textwrap.fill(note, 100)])


def _show(default: Any) -> str:
    return "" if default is None else str(default)


def _replaced(config: Config, key: str, default: Any) -> str:
    """Returns the value of a key in brackets; an empty text if it is the default."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    same = value == default or key in ("recipe", "stages")
    return "" if same else f" [{_show(value)}]"


def _exit(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Ray and MLflow leave threads behind, for which an ordinary exit would wait.
    os._exit(code)
