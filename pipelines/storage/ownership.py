"""Tells what a job of ours wrote from the files of others, which no job may replace or remove."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.errors import UserError, listing
from pipelines.storage.files import local_files
from pipelines.storage.store import LocalStore, Store
from pipelines.storage.typed import parse_json

#: An object that stands beside a result under `s3://` while a job replaces the result.
PENDING = ".pending"
#: Returns True for the name of a file that belongs to a result.
Owns = Callable[[str], bool]


def files_in(directory: Path) -> dict[str, Path]:
    """Returns every file in a folder, at any depth, by its sorted path in there.

    A link to a folder counts as a file: what it leads to does not lie in the folder.

    Raises:
        OSError: a folder cannot be read.
    """
    found = {}
    for folder, folders, files in os.walk(directory, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for path in (Path(folder, name) for name in (*files, *links)):
            found[path.relative_to(directory).as_posix()] = path
    return dict(sorted(found.items()))


def check_replaceable(
    store: Store, mark: str, owned: Callable[[dict[str, Any]], Owns | None]
) -> None:
    """Checks that a result may replace everything in a folder or under an `s3://` prefix.

    It may if the place is absent or empty, or if it holds an earlier result and nothing else.

    Args:
        mark: the name of the JSON file that describes a result, such as `bundle.json`.
        owned: takes the JSON object in that file; returns which other files belong to the result,
            or None if no job of ours wrote the object. Its version may be an older one.

    Raises:
        UserError: the place holds a file of somebody else, or it cannot be read.
    """
    names = _names(store)
    if PENDING in names:
        return  # A job of ours was killed while it replaced the result.
    owns = _read_mark(store, mark, owned) if mark in names else None
    foreign = [name for name in names if owns is None or not (name == mark or owns(name))]
    if foreign:
        raise not_ours(store, foreign)


def not_ours(store: Store, names: list[str]) -> UserError:
    """Returns the error for files of others in a place that a job would write to."""
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return UserError(
        f"{store.location} holds files that SRMill did not write ({listing(names[:3])}{more}): "
        "choose another output, or move them to another place."
    )


def _names(store: Store) -> list[str]:
    if not isinstance(store, LocalStore):
        return store.names()
    root = store.directory
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise UserError(
            f"{root} is a file or a link, and not a folder that SRMill wrote: choose another "
            "output, or move it to another place."
        )
    with local_files(root):
        return list(files_in(root)) if root.exists() else []


def _read_mark(
    store: Store, mark: str, owned: Callable[[dict[str, Any]], Owns | None]
) -> Owns | None:
    try:
        document = parse_json(store.read(mark))
    except UserError:
        raise
    except ValueError:
        return None
    return owned(document) if isinstance(document, dict) else None


def _raise(error: OSError) -> None:
    raise error
