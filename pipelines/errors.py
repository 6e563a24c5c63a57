"""The exceptions whose message is for the user, and the words that their messages share."""

import re
from collections.abc import Iterable, Sequence

#: The user and the password of an address. A password may hold '/', '?' and '#', as the secret keys
#: of S3 do; it then follows a colon, and is no port. (An address of S3 has no port.)
_CREDENTIALS = re.compile(
    r"""(://+)(?:
        [^/\s'"?#]* @
        | [^/\s'"?#:@[]* : (?! \d+ [/?#] ) [^\s'"]* @
        | (?<=s3://) [^/\s'"?#:@[]* : [^\s'"]* @
    )""",
    re.VERBOSE,
)
#: The characters of a value from outside that a message repeats.
MAX_TOLD = 120


class UserError(ValueError):
    """A user's mistake. The message says in one sentence what is wrong and what to do.

    Jobs and the command line print it without a traceback and exit with code 2. The message shows
    no password of an address, and is one line, whatever the values that it repeats hold.
    """

    def __str__(self) -> str:
        return printable(redacted(super().__str__()))


class NotPromotedError(Exception):
    """A job did its work, and the gate refused the model. The message says why.

    The job exits with code 3. A retry would not help: the gate decides once about a version.
    """


class BudgetSpentError(Exception):
    """A job stopped since its budget is spent; its work is saved. The message says how to go on.

    The job exits with code 4. A retry would stop again until the budget is larger.
    """


class BusyError(Exception):
    """A job did nothing, since another one does the same work. The message names the other one.

    The job exits with code 5. A retry helps once the other one has ended.
    """


class Terminated(BaseException):
    """The process was asked to end and has saved its work. The message says how to go on."""


def listing(values: Iterable[object], between: str = ", ") -> str:
    """Returns the values as a message lists them, with commas or another text between."""
    return between.join(str(value) for value in values)


def redacted(text: str) -> str:
    """Returns a text in which no address has a user and a password any more."""
    return _CREDENTIALS.sub(r"\1***@", text)


def printable(text: str) -> str:
    """Returns a text in which escapes such as \\n stand for the characters that no line shows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(value: object) -> str:
    """Returns a value from outside as a message tells it: short, on one line, and printable. No
    address in it has a password any more."""
    text = " ".join(redacted(str(value)).split())
    return printable(text if len(text) <= MAX_TOLD else f"{text[:MAX_TOLD]}…")


def first_line(error: BaseException) -> str:
    """Returns what an error says, without the lines that follow, which are for programmers."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a line for each row, with the columns below one another. The last column may hold
    texts of any length."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return [
        "  ".join(
            [*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    ]
