"""Documents that cross from room to room: JSON with a version, checked when it is read."""

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from pipelines.errors import UserError


@dataclass(frozen=True)
class Document:
    """Base of the frozen dataclasses that are read and written here.

    Attributes:
        VERSION: grows with every change of the fields that an older reader would not understand.
        VERSION_KEY: the key of the JSON object that holds the version.
        REMEDY: tells the user how to get a new file, for messages ("export the bundle again").
    """

    VERSION: ClassVar[int]
    VERSION_KEY: ClassVar[str] = "version"
    REMEDY: ClassVar[str]


T = TypeVar("T", bound=Document)


def read_typed(cls: type[T], data: bytes, where: str) -> T:
    """Returns the document that `data` holds.

    Args:
        where: names the file, for messages.

    Raises:
        UserError: `data` is no JSON object, has another version, lacks a key, has one too many, or
            holds a value of another type; nothing is converted.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        values = json.loads(data)
        version = values.pop(cls.VERSION_KEY, "none")
    except (ValueError, AttributeError, TypeError):
        raise _damaged(cls, where, "no JSON object") from None
    if version != cls.VERSION:
        raise UserError(
            f"{where} has schema version {version}, this SRMill reads {cls.VERSION}: use the "
            f"SRMill that wrote it, or {cls.REMEDY}."
        )
    try:
        # Strict, JSON's arrays become tuples, and nothing else becomes what it is not.
        return TypeAdapter(cls).validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _damaged(cls, where, f"{place}: {first['msg'].lower()}") from None


def to_dict(document: Document) -> dict[str, Any]:
    """Returns the document as a JSON object, the version first."""
    return {document.VERSION_KEY: document.VERSION} | asdict(document)


def to_json(document: Document) -> bytes:
    """Returns the document as a file that people can read; every key keeps its place."""
    return (json.dumps(to_dict(document), indent=2) + "\n").encode()


def _damaged(cls: type[Document], where: str, why: str) -> UserError:
    return UserError(f"{where} is damaged ({why}): fetch it again, or {cls.REMEDY}.")
