"""Tests who gets a token, and where it is kept."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import ray_auth
from pipelines.ray_auth import MODE, OTHER_MACHINES, TOKEN, TOKEN_PATH, authenticate, keep_token


@pytest.fixture
def afterwards() -> Iterator[None]:
    """Leaves Ray in this process as the session needs it, once the environment is as before."""
    yield
    ray_auth.read_again()


@pytest.fixture
def home(afterwards: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user whose environment says nothing of Ray."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (MODE, TOKEN, TOKEN_PATH, OTHER_MACHINES):
        # First set, so that the end of the test restores what the code below sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def test_a_token_is_its_users_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "token"
    old = os.umask(0)
    try:
        keep_token(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text()
    assert len(bytes.fromhex(token)) == 32
    keep_token(path)
    assert path.read_text() == token
    assert [found.name for found in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("spoil", ["readable", "empty", "link"])
def test_a_token_that_others_may_know_is_replaced(tmp_path: Path, spoil: str) -> None:
    path, target = tmp_path / "token", tmp_path / "elsewhere"
    target.write_text("known")
    if spoil == "link":
        target.chmod(0o600)
        path.symlink_to(target)
    else:
        path.write_text("" if spoil == "empty" else "known")
        path.chmod(0o640 if spoil == "readable" else 0o600)
    keep_token(path)
    assert not path.is_symlink()
    assert path.read_text() not in ("", "known")
    assert target.read_text() == "known"


def test_a_cluster_of_ones_own_gets_a_token_in_memory(home: Path) -> None:
    authenticate("local")
    assert os.environ[MODE] == "token"
    assert len(os.environ[TOKEN]) == 64
    assert os.environ[OTHER_MACHINES] == "0"
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({TOKEN: "mine"}, {MODE: "token", TOKEN: "mine"}),
        ({TOKEN_PATH: "/my/token"}, {MODE: "token", TOKEN_PATH: "/my/token"}),
        ({MODE: "disabled"}, {MODE: "disabled"}),
        ({MODE: "disabled", TOKEN: "mine"}, {MODE: "disabled", TOKEN: "mine"}),
    ],
)
def test_a_token_and_a_mode_that_are_there_stay(
    given: dict[str, str],
    kept: dict[str, str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    authenticate("local")
    found = {name: os.environ[name] for name in (MODE, TOKEN, TOKEN_PATH) if name in os.environ}
    assert found == kept


def test_the_token_of_the_home_folder_goes_to_clusters_of_this_machine_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("kept")
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    authenticate("192.0.2.1:6379")
    assert MODE not in os.environ
    assert OTHER_MACHINES not in os.environ
    monkeypatch.delenv("RAY_ADDRESS")
    authenticate("192.0.2.1:6379")
    assert os.environ[MODE] == "token"
    assert TOKEN not in os.environ


def test_a_port_that_other_machines_reach_is_told_from_one_that_they_do_not() -> None:
    for host, alone in (("127.0.0.1", True), ("0.0.0.0", not ray_auth.outside_addresses())):
        with socket.socket() as server:
            server.bind((host, 0))
            server.listen()
            address = f"127.0.0.1:{server.getsockname()[1]}"
            assert ray_auth._listens_here_only(address) is alone
    assert not ray_auth._listens_here_only("192.0.2.1:6379")
