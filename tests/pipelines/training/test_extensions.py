"""Locks of extensions that killed, and living, processes hold."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.training.extensions import (
    TOLD_AFTER_S,
    VARIABLE,
    extensions_folder,
    guarded,
    load_extension,
)
from pipelines.training.worker import prepare_deepspeed
from tests.conftest import ROOT, Runner
from tests.support.clock import TurnedClock
from tests.support.training import CPU

START = "from tests.pipelines.training.test_turn import make_turn; make_turn(0, 1.0)"
HOLD = """
import sys
from pathlib import Path
from pipelines.training.extensions import guarded
with guarded(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "some_op").mkdir()
    (Path(sys.argv[1]) / "some_op" / "lock").touch()
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that builds in the folder until its input is closed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_start_goes_through_after_a_killed_build(
    tmp_path: Path, run_python: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_deepspeed(CPU)
    load_extension()
    built = extensions_folder()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    copy = extensions_folder()
    assert copy.parent == tmp_path
    shutil.copytree(built, copy)
    (left := copy / "deepspeed_shm_comm" / "lock").touch()
    done = run_python("-c", START, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"removing {left}: the process that built there is gone." in done.stdout
    assert not left.exists()
    assert os.environ[VARIABLE] == str(tmp_path)


def test_the_lock_of_a_killed_process_is_free_and_what_it_left_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = TurnedClock()
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / "some_op" / "lock").exists()
        with guarded(tmp_path, clock):
            assert not (tmp_path / "some_op" / "lock").exists()
    assert clock.now() == 0
    assert capsys.readouterr().out.startswith(f"removing {tmp_path}/some_op/lock")


def test_a_living_holder_is_named_and_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder(tmp_path) as process:
        said: list[str] = []

        class Waiting(TurnedClock):
            """The holder's lock stands all the time, and the holder ends after a minute."""

            def sleep(self, seconds: float) -> None:
                if process.poll() is None:
                    assert (tmp_path / "some_op" / "lock").exists()
                said.append(capsys.readouterr().out)
                assert bool("".join(said)) == (self.now() > TOLD_AFTER_S)
                self.turn(seconds)
                if self.now() > 60:
                    process.communicate()

        with guarded(tmp_path, Waiting()):
            assert process.returncode == 0
    told = "".join(said)
    assert told.count("waiting for") == 1
    assert f"waiting for process {process.pid} on " in told
    assert f"which builds extensions in {tmp_path}" in told


def test_other_versions_have_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = extensions_folder()
    monkeypatch.setattr("pipelines.training.extensions.version", lambda name: f"{name}'s next")
    assert extensions_folder().parent == ours.parent
    assert extensions_folder() != ours


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot use .*file/x"), guarded(tmp_path / "file" / "x"):
        pass
