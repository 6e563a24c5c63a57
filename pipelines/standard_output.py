"""Keeps a program's words from ending it in a traceback, wherever its output goes."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper


@contextmanager
def standard_output() -> Iterator[None]:
    """Lets the block print any text: characters that the output cannot encode become escapes.

    Where nobody reads the output any more, as after `| head`, this ends the process without a word,
    with code 141. If the output cannot be written, as on a full disk, it ends the process with one
    sentence and code 2.
    """
    _open_closed()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError:
        failure = _failure()
        if failure is None:
            raise  # it came from something else
        if not isinstance(failure, BrokenPipeError):
            reason = failure.strerror or failure
            print(f"error: the output cannot be written ({reason}): send it to another place.",
                  file=sys.stderr, flush=True)  # fmt: skip
        # Not sys.exit: Python flushes at the end, and would complain then.
        os._exit(128 + signal.SIGPIPE if isinstance(failure, BrokenPipeError) else 2)


def _open_closed() -> None:
    """Opens streams that the caller closed (`>&-`), for which Python has None.

    The new stream takes the free number, which else the next file that is opened would get, and the
    words of libraries with it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, open until the end


def _failure() -> OSError | None:
    """Returns why an empty line more cannot be printed; None if it can."""
    try:
        print(flush=True)
    except OSError as error:
        return error
    return None
