"""Finds, in the place of a dataset, files of somebody else that a job would replace or remove."""

import re
import tarfile
from collections.abc import Iterable

from pipelines.data.manifest import FILE_NAME, HISTORY, Manifest
from pipelines.data.writer import NOTES, OWNER, read_note
from pipelines.errors import UserError
from pipelines.storage.ownership import not_ours
from pipelines.storage.store import Store
from pipelines.storage.typed import parse_json

#: The names of shards that a job writes. They are those of many other webdatasets too.
SHARD = re.compile(r"(train|val)-\d{6}\.tar")
NOTE = re.compile(rf"{re.escape(NOTES)}/{SHARD.pattern}\.json")
REPORT = "report.json"
_REPORT_KEYS = {"num_files", "num_skipped", "skipped", "reasons", "manifest"}


def check_output(store: Store) -> set[str]:
    """Checks that a job may write its dataset into a folder or under an `s3://` prefix.

    It may if each file whose name a job uses is ours. Files of other names are no obstacle: no job
    touches them.

    Returns:
        the names of all shards that any manifest, earlier ones too, lists.

    Raises:
        UserError: a file is not ours; a manifest or note is damaged or not ours; or the store
            fails.
    """
    sizes = store.sizes()
    listed = _listed_shards(store, sizes)
    known, foreign = set(listed), list[str]()
    for name in sizes:
        if NOTE.fullmatch(name):
            _, shard = read_note(store, name)
            known |= {shard.path} if shard and sizes.get(shard.path) == shard.bytes else set()
        elif name == REPORT and not _is_report(store):
            foreign.append(name)
    foreign += [n for n in sizes if SHARD.fullmatch(n) and n not in known and not is_ours(store, n)]
    if foreign:
        raise not_ours(store, foreign)
    return listed


def _listed_shards(store: Store, names: Iterable[str]) -> set[str]:
    manifests = [n for n in names if n == FILE_NAME or n.startswith(f"{HISTORY}/")]
    return {shard.path for name in manifests for shard in Manifest.load(store, name).shards}


def is_ours(store: Store, name: str) -> bool:
    """Returns True for a tar whose first member bears the mark of our writer.

    Raises:
        UserError: the store fails.
    """
    try:
        header = tarfile.TarInfo.frombuf(store.read(name, 0, tarfile.BLOCKSIZE), "utf-8", "strict")
    except (tarfile.TarError, ValueError):
        return False
    return header.uname == OWNER


def _is_report(store: Store) -> bool:
    try:
        report = parse_json(store.read(REPORT))
    except UserError:
        raise
    except ValueError:
        return False
    return isinstance(report, dict) and report.keys() == _REPORT_KEYS
