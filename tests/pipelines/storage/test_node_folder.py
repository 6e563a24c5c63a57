"""Folders that each node has for itself, as one process names them and another one finds them."""

import pickle
import socket
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.node_folder import NodeFolder


def elsewhere(folder: NodeFolder, monkeypatch: pytest.MonkeyPatch, home: Path | None) -> NodeFolder:
    """The folder as a worker on another node gets it."""
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    if home is None:
        monkeypatch.delenv("SRMILL_HOME")
    else:
        monkeypatch.setenv("SRMILL_HOME", str(home))
    found: NodeFolder = pickle.loads(pickle.dumps(folder))
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The driver's home."""
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path / "here"))
    return tmp_path / "here"


def test_a_relative_folder_is_in_the_home_of_each_node(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = NodeFolder.of("work/x")
    assert folder.path == here / "work/x"
    there = elsewhere(folder, monkeypatch, tmp_path / "there")
    assert there.path == tmp_path / "there/work/x"
    # A loader process gets it from a worker.
    assert pickle.loads(pickle.dumps(there)).path == tmp_path / "there/work/x"


def test_a_node_without_a_home_has_it_where_the_driver_has_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert elsewhere(NodeFolder.of("work/x"), monkeypatch, None).path == here / "work/x"


def test_on_the_drivers_machine_it_stays_in_the_drivers_home(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = NodeFolder.of("work/x")
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path / "of the cluster"))
    assert pickle.loads(pickle.dumps(folder)).path == here / "work/x"


def test_an_absolute_folder_is_the_same_on_every_node(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert elsewhere(NodeFolder.of("/x"), monkeypatch, tmp_path).path == Path("/x")


def test_what_is_no_path_is_refused_where_it_is_configured() -> None:
    with pytest.raises(UserError, match="a local folder is needed"):
        NodeFolder.of("s3://bucket/prefix")
