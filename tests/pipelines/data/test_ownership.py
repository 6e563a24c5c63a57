"""A job that makes shards replaces and removes its own files, and no others."""

import io
import shutil
import tarfile
from itertools import starmap
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.data.sources import find_entries
from pipelines.errors import UserError
from pipelines.storage.store import Store, open_store
from tests.conftest import SMALL


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Folders and prefixes keep the same promise."""
    where = tmp_path / "out" if request.param == "local" else request.getfixturevalue("s3_url")
    return open_store(where)


def configured(store: Store, photos: Path) -> Config:
    return load_config([f"recipe={SMALL}", f"source={photos}", f"output={store.location}"])


def their_tar() -> bytes:
    """A shard of somebody else's webdataset."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("0001.jpg")
        member.uname, member.size = "alice", 4
        tar.addfile(member, io.BytesIO(b"1234"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train-000007.tar", their_tar()),
        ("val-000000.tar", b""),
        ("report.json", b'{"grade": 1}'),
        ("report.json", b"[" * 9999),
        (".notes/train-000000.tar.json", b"{}"),
        ("manifest.json", b'{"name": "an app"}'),
        ("manifests/a.json", b"\xff"),
    ],
)
def test_files_of_others_are_refused_before_anything_starts(
    store: Store, photos: Path, name: str, data: bytes
) -> None:
    store.write(name, data)
    config = configured(store, photos)
    for start in (shard.plan, lambda c: shard.make_dataset(c, find_entries(str(photos)), starmap)):
        with pytest.raises(UserError, match=r"did not write \(|is damaged|has schema version"):
            start(config)
    left = set(store.names()) - {".lock"}
    assert (left, store.read(name)) == ({name}, data)


def test_files_of_other_names_stay(photos: Path, tmp_path: Path) -> None:
    names = ["train-7.tar", "thesis.tex", ".notes/mine.txt", "train-000007.tar/file"]
    store = open_store(tmp_path / "out")
    for name in names:
        store.write(name, b"1")
    shard.plan(configured(store, photos))
    shard.make_dataset(configured(store, photos), find_entries(str(photos)), starmap)
    assert {name: store.read(name) for name in names} == dict.fromkeys(names, b"1")


def test_a_tar_that_comes_while_the_job_runs_stays(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "out")
    store = open_store(tmp_path / "out")
    store.write("train-000099.tar", their_tar())
    shard._clean(store, set())
    assert [name for name in store.names() if name.endswith(".tar")] == ["train-000099.tar"]
