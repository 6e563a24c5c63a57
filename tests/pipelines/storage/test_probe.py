"""A witness on a node that has the driver's folder, and on one that does not."""

import pickle
import socket
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.storage.probe import Witness, token
from pipelines.storage.store import LocalStore

REMEDY = "set run.storage to s3://bucket/prefix"


def test_a_node_that_shares_the_folder_sees_its_token(tmp_path: Path) -> None:
    with token(tmp_path / "runs", "mine", REMEDY) as witness:
        pickle.loads(pickle.dumps(witness)).check()
        assert LocalStore(tmp_path / "runs").names() == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_node_without_the_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    with token(tmp_path / "runs", "mine", REMEDY) as witness:
        (tmp_path / "runs").rename(tmp_path / "elsewhere")
        with pytest.raises(UserError) as error:
            witness.check()
    node = socket.gethostname()
    assert str(error.value) == (
        f"node {node} does not see the folder {tmp_path / 'runs'} as node {node}, where the job "
        f"runs, sees it ({witness.name}: no such file or directory): {REMEDY}."
    )


def test_another_folder_under_the_same_path_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    witness = Witness.of(tmp_path, file.name, REMEDY)
    file.write_bytes(b"two")
    with pytest.raises(UserError, match=r"\(a\.png: another content\)"):
        witness.check()


def test_a_copy_of_an_earlier_token_is_not_this_one(tmp_path: Path) -> None:
    with token(tmp_path, "mine", REMEDY) as first:
        pass
    with token(tmp_path, "mine", REMEDY) as second:
        assert first.name != second.name


def test_the_token_of_a_killed_process_is_removed_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".mine.token-0123abcd").write_text("left")
    (tmp_path / ".other.token-0123abcd").write_text("kept")
    with token(tmp_path, "mine", REMEDY):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".other.token-0123abcd"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot use .*file"),
        token(tmp_path / "file" / "runs", "mine", REMEDY),
    ):
        pass
