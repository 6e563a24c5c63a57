"""Reads lengths of time as people write them: 30d, 36h."""

import re

from pipelines.config.keys import MAX_SECONDS
from pipelines.config.wording import shown
from pipelines.errors import UserError

_UNITS = {"d": 86_400.0, "h": 3_600.0}


def seconds(name: str, text: str) -> float:
    """Returns a number of days (`30d`) or hours (`36h`) in seconds.

    Args:
        name: the key or option that holds it, for messages.

    Raises:
        UserError: the text has another form, or is no time at all, or more than three years.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([dh])", text)
    length = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < length <= MAX_SECONDS:
        raise UserError(
            f"{name} is {shown(text)}: write a number of days or hours, such as 30d or 36h, of at "
            "most three years."
        )
    return length
