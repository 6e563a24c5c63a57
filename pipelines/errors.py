"""The one exception a user is meant to read."""


class UserError(ValueError):
    """A user's mistake: one sentence that says what is wrong and what to do.

    Jobs and the command line print it without a traceback and exit with code 2.
    """


class Terminated(BaseException):
    """The process was asked to end and has saved its work; the message says how to go on."""
