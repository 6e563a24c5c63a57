"""Documents that cross from room to room: JSON with a version, checked when it is read."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from pipelines.errors import UserError, told

if TYPE_CHECKING:
    from pydantic import ValidationError


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
D = TypeVar("D")

#: The levels of lists and objects in a JSON value. Ours have less than ten.
MAX_DEPTH = 64


def parse_json(data: bytes) -> Any:
    """Returns the JSON value in a file that anybody may have written.

    Raises:
        ValueError: it holds no JSON, or is nested more deeply than MAX_DEPTH.
    """
    try:
        return check_depth(json.loads(data))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_depth(value: Any) -> Any:
    """Returns a JSON value that functions which call themselves can work on.

    Raises:
        ValueError: it is nested more deeply than MAX_DEPTH, or a part of it stands in two places,
            as YAML's aliases make it. A few of them can stand for any number of values.
    """
    level = [value]
    seen: set[int] = set()
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
        parts = [id(inner) for inner in level if isinstance(inner, dict | list | tuple)]
        if len(set(parts)) < len(parts) or seen.intersection(parts):
            raise ValueError("a part of it stands in two places")
        seen.update(parts)
    raise ValueError("nested too deeply")


def _inside(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()  # YAML has !!pairs, which are tuples


def read_typed(cls: type[T], data: bytes, where: str) -> T:
    """Returns the document that `data` holds.

    Args:
        where: names the file, for messages.

    Raises:
        UserError: `data` is no JSON object, has another version, lacks a key, has one too many, or
            holds a value of another type; nothing is converted.
    """
    from pydantic import ValidationError

    try:
        values = parse_json(data)
        version = values.pop(cls.VERSION_KEY, "none")
    except (ValueError, AttributeError, TypeError):
        raise damaged(cls, where, "no JSON object") from None
    if type(version) is not int or version != cls.VERSION:
        raise UserError(
            f"{where} has schema version {told(version)}, this SRMill reads {cls.VERSION}: use the "
            f"SRMill that wrote it, or {cls.REMEDY}."
        )
    try:
        return validated(cls, values)
    except ValidationError as error:
        raise damaged(cls, where, first_fault(error)) from None


def first_fault(error: "ValidationError") -> str:
    """Returns the first fault of a value that `validated` refuses: its place, and what is wrong."""
    first = error.errors(include_url=False)[0]
    place = told(".".join(map(str, first["loc"])))
    return f"{place}: {told(first['msg']).lower()}"


def validated(cls: type[D], values: Any) -> D:
    """Returns the dataclass that a JSON value describes.

    Raises:
        pydantic.ValidationError: a ValueError: the value lacks a key, has one too many, or holds a
            value of another type or form.
    """
    # Strict, JSON's arrays become tuples, and nothing else becomes what it is not.
    return cast(
        "D",
        _adapter(cast("Any", cls)).validate_json(json.dumps(values), strict=True, extra="forbid"),
    )


@cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


#: Keys that documents of their version have only had since later. They are left out where they are
#: empty, so that documents of before, and digests of them, stay as they are.
_LATE = {"others"}


def to_dict(document: Document) -> dict[str, Any]:
    """Returns the document as a JSON object, the version first."""

    def without_late(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if value or key not in _LATE}

    return {document.VERSION_KEY: document.VERSION} | asdict(document, dict_factory=without_late)


def to_json(document: Document) -> bytes:
    """Returns the document as a file that people can read; every key keeps its place."""
    return (json.dumps(to_dict(document), indent=2) + "\n").encode()


def damaged(cls: type[Document], where: str, why: str) -> UserError:
    """Returns the error for a document that cannot be used; `why` says it in a few words."""
    return UserError(f"{where} is damaged ({why}): fetch it again, or {cls.REMEDY}.")
