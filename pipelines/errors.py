"""The exceptions whose message is for the user, and the words that their messages share."""

from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake. The message says in one sentence what is wrong and what to do.

    Jobs and the command line print it without a traceback and exit with code 2.
    """


class Terminated(BaseException):
    """The process was asked to end and has saved its work. The message says how to go on."""


def listing(values: Iterable[object], between: str = ", ") -> str:
    """Returns the values as a message lists them, with commas or another text between."""
    return between.join(str(value) for value in values)


def first_line(error: BaseException) -> str:
    """Returns what an error says, without the lines that follow, which are for programmers."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
