"""`srmill hook`, and real requests to it; the job is a short one."""

import json
import os
import socket
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.triggers import TOKEN
from pipelines.triggers.hook import PATH
from tests.conftest import SMALL
from tests.pipelines.test_cli import srmill
from tests.support.forked import ForkedPython
from tests.support.triggered import ShortJob, until

SECRET = "0123456789abcdef" * 2
SETTINGS = [f"recipe={SMALL}"]


class Running:
    """A hook that runs."""

    def __init__(self, process: ForkedPython) -> None:
        self.process = process
        self.url = process.stdout.readline().removeprefix("Listens at ").strip()

    def post(self, token: str | None = SECRET, path: str = "", **options: Any) -> tuple[int, Any]:
        """The status and the value of the answer."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        options = {"data": b"{}", "method": "POST"} | options
        request = urllib.request.Request(self.url + path, headers=headers, **options)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            self.headers = error.headers
            return error.code, json.load(error)

    def stop(self) -> str:
        """Stops it as systemd does; returns what it said."""
        self.process.terminate()
        said, _ = self.process.communicate(timeout=60)
        return said


@pytest.fixture
def hook(job: ShortJob, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv(TOKEN, SECRET)
    running = Running(job.srmill("hook", folder, *SETTINGS, "--port", 0, "--every", 1))
    yield running
    running.stop()


def answered(hook: Running) -> tuple[int, Any]:
    """The answer to a request that does not come too often."""
    found = hook.post()
    while found[0] == 429:
        time.sleep(0.05)  # Each answer is a line, and nobody reads them: a pipe holds so many.
        found = hook.post()
    return found


def test_the_right_token_starts_a_retraining(hook: Running, job: ShortJob, folder: Path) -> None:
    assert hook.url.startswith("http://127.0.0.1:")
    status, value = hook.post()
    assert status == 202
    assert value["job"].startswith("small-")
    while "has succeeded" not in (line := hook.process.stdout.readline()):
        assert line
    assert value["job"] in line
    [arguments] = job.started
    assert f"source={folder}" in arguments


def test_a_wrong_token_starts_nothing(hook: Running, job: ShortJob) -> None:
    for token in (None, "", "0" * 32, SECRET[:-1], f"{SECRET}0", "\xfc"):
        assert hook.post(token) == (401, {"error": "wrong token"})
    assert hook.headers["WWW-Authenticate"] == "Bearer"
    assert job.started == []
    # A wrong one does not use up the time of the right one.
    assert hook.post()[0] == 202


def test_who_asks_too_often_waits(hook: Running, job: ShortJob) -> None:
    job.busy(True)
    assert hook.post()[0] == 202
    assert hook.post() == (429, {"error": "asked too often"})
    assert 1 <= int(hook.headers["Retry-After"]) <= 2
    status, value = answered(hook)
    assert status == 409
    assert "-1 runs" in value["error"]
    job.busy(False)
    until(lambda: job.started and not job.processes())
    assert answered(hook)[0] == 202
    until(lambda: len(job.started) == 2)


def test_other_requests_are_refused(hook: Running, job: ShortJob) -> None:
    assert hook.post(path="/../x")[0] == 404
    assert hook.post(method="GET", data=None)[0] == 405
    assert hook.headers["Allow"] == "POST"
    host, port = hook.url.removeprefix("http://").partition("/")[0].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(b"POST /retrain HTTP/1.0\r\nContent-Length: many\r\n\r\n")
        assert b" 400 " in line.recv(1000).partition(b"\r\n")[0]
    assert job.started == []


def test_strange_requests_leave_no_traceback(hook: Running) -> None:
    address = urllib.parse.urlsplit(hook.url)

    def send(head: str, body: bytes = b"") -> socket.socket:
        client = socket.create_connection((address.hostname, address.port), timeout=30)
        client.sendall(f"POST {PATH} HTTP/1.0\r\n{head}\r\n\r\n".encode() + body)
        return client

    with send(f"Content-Length: {'9' * 5000}") as client:
        assert client.recv(100).startswith(b"HTTP/1.0 400 ")
    with send("Content-Length: 9", b"a") as client:  # it hangs up, and not politely
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert hook.post(token=None)[0] == 401
    assert "Traceback" not in hook.stop()


def test_a_source_that_is_away_is_said(hook: Running, folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    status, value = hook.post()
    assert status == 503
    assert "there is no folder" in value["error"]


def test_a_stopped_hook_lets_its_job_save_its_work(hook: Running, job: ShortJob) -> None:
    job.busy(True)
    assert hook.post()[0] == 202
    until(lambda: job.started)
    said = hook.stop()
    assert hook.process.returncode == 143
    assert "stopped: the same command goes on." in said
    assert SECRET not in said
    assert job.saved


def test_watch_and_hook_know_of_each_other(hook: Running, job: ShortJob, folder: Path) -> None:
    job.busy(True)
    assert hook.post()[0] == 202
    until(lambda: job.started)
    watching = job.srmill("watch", folder, *SETTINGS, "--once", "--now")
    assert "-1 runs\n" in watching.communicate(timeout=60)[0]
    assert len(job.started) == 1


@pytest.mark.parametrize("token", ["", "short", "ü" * 20, "a b\n" * 9])
def test_a_hook_needs_a_token(
    token: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(TOKEN, token)
    assert srmill("hook", folder, *SETTINGS) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: ${TOKEN} must hold a token of at least 16 letters")
    assert error.count("\n") == 1


def test_a_taken_port_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN, SECRET)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert srmill("hook", folder, *SETTINGS, "--port", taken.getsockname()[1]) == 2
    assert "give another --host or --port" in capsys.readouterr().err
    assert srmill("hook", folder, *SETTINGS, "--port", 99999) == 2
    assert "give another --host or --port" in capsys.readouterr().err
    assert not Path(os.environ["SRMILL_HOME"]).exists()
