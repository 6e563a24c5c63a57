"""Lets Ctrl-C end a program quietly while it still imports its modules, which takes seconds."""

import signal


def end_quietly() -> None:
    """Makes an interrupt end the process at once. There is nothing to tidy up yet."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Makes an interrupt a KeyboardInterrupt again, once there is code that answers to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
