"""The forms of values that documents from outside may lead to a file, a lock or an allocation with.

pydantic checks them when a document is read (see `pipelines.storage.typed`).
"""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from pipelines.storage.clock import from_utc
from pipelines.storage.store import check_name

#: The largest number of bytes, samples or steps that is believed: 2⁶³ - 1 fits into numpy's int64.
MAX_INT = 2**63 - 1


def check_path(path: str) -> str:
    """Returns a path that stays inside its folder, on every system.

    Raises:
        ValueError: it is empty, absolute or not in UTF-8, or holds `.`, `..`, a backslash or a
            control character.
    """
    path.encode()
    if "\\" in path or any(unicodedata.category(character) == "Cc" for character in path):
        raise ValueError("a path with a backslash or a control character")
    return check_name(path)


def check_time(text: str) -> str:
    """Returns a time as `clock.utc` writes it.

    Raises:
        ValueError: it has another form.
    """
    from_utc(text)
    return text


#: 64 lower-case hexadecimal digits.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: The path of a file in its bundle, checkpoint or dataset.
RelativePath = Annotated[str, AfterValidator(check_path)]
#: A time in UTC to the second, as `clock.utc` writes it: 2026-11-29T08:00:00Z.
UtcTime = Annotated[str, AfterValidator(check_time)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_INT)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_INT)]
