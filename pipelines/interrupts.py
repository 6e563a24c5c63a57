"""Lets Ctrl-C end a program quietly while it still imports its modules, which takes seconds."""

import os
import signal
from typing import Any, NoReturn

_TOLD = b"interrupted: nothing has begun yet.\n"
#: The process that a user started; those that are forked from it say nothing of their own.
_STARTED = os.getpid()


def end_quietly(module: str = "__main__") -> None:
    """Makes an interrupt end the process at once, with one line and code 130. There is nothing to
    tidy up yet.

    Args:
        module: the caller's `__name__`. The processes that multiprocessing starts run a program's
            file under another name than `__main__`. They end without a word.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end if module == "__main__" else signal.SIG_DFL)


def raise_again() -> None:
    """Makes an interrupt a KeyboardInterrupt again, once there is code that answers to it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: Any) -> NoReturn:
    # Neither an exception nor a buffered stream: the interrupt may have come anywhere in an import.
    if os.getpid() == _STARTED:
        os.write(2, _TOLD)
    os._exit(128 + signal.SIGINT)
