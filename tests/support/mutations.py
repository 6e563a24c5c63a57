"""Changes documents at any place, for tests that feed their readers."""

import math
from collections.abc import Iterator
from typing import Any

HOSTILE: list[Any] = [
    None, True, 0, -1, 2**63, 10**30, 0.5, math.nan, math.inf, "", "a", "\ud800", "\0", "a\nb",
    "../../victim/backup", "/etc/passwd", "..", "a/../../victim/backup", "C:\\x", "é" * 300, [], {},
    [1], {"a": 1}, [[]], ["../victim"], "bundle.json",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in a document, its own first."""
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inner:
        yield from places(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], to: Any, how: str) -> Any:
    """Returns a document in which the value at a path is another ("set"), gone ("drop"), or under
    a hostile key ("rename")."""
    if not path:
        return to
    copy = value.copy()
    key, *rest = path
    if rest:
        copy[key] = changed(value[key], tuple(rest), to, how)
    elif how == "drop":
        del copy[key]
    elif how == "rename" and isinstance(copy, dict):
        copy[str(to)] = copy.pop(key)
    else:
        copy[key] = to
    return copy
