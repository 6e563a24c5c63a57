"""The forms of values that documents from outside may lead to a file, a lock or an allocation with.

pydantic checks them when a document is read (see `pipelines.storage.typed`).
"""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

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


#: 64 lower-case hexadecimal digits.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: The path of a file in its bundle, checkpoint or dataset.
RelativePath = Annotated[str, AfterValidator(check_path)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_INT)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_INT)]
