"""A proxy before the S3 server that does to requests what networks and busy servers do."""

import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.s3_server import S3Server, use_environment

REFUSALS = {"slow_down": (503, "SlowDown"), "gone": (404, "NoSuchUpload")}


@dataclass(frozen=True)
class Fault:
    """A fault of one request.

    kind:
        drop: no answer. lost: carried out, but no answer. slow_down: 503. gone: 404.
        stall: an answer after `seconds`. truncate: the answer's body ends after `at` bytes.
        flip: byte `at` of the answer's body is inverted. flip_request: that of the request's.
    """

    kind: str
    at: int = 0
    seconds: float = 0.0
    method: str = ""


@dataclass
class Seen:
    """One request: bytes of the answer's body that were sent, and what was done to it."""

    method: str
    path: str
    range: str
    fault: str = ""
    sent: int = 0


class FaultyProxy:
    """Forwards to the server unmodified (the signature covers Host), but for the faults.

    `plan` gives faults to the next requests, one each; `chance` to a share of all others; `before`
    is called with each request, and may set its `fault`'s kind.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.seen: list[Seen] = []
        self.before: Callable[[Seen], None] = lambda seen: None
        self._plan: list[Fault] = []
        self._share = 0.0
        self._faults: tuple[Fault, ...] = ()
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def plan(self, *faults: Fault) -> None:
        with self._lock:
            self._plan += faults

    def chance(self, share: float, *faults: Fault, seed: int = 0) -> None:
        with self._lock:
            self._share, self._faults, self._random = share, faults, random.Random(seed)

    def next_fault(self, method: str) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self._plan):
                if fault.method in ("", method):
                    return self._plan.pop(index)
            if self._random.random() >= self._share:
                return None
            fault = self._random.choice(self._faults)
            return fault if fault.method in ("", method) else None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultyProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the client's delayed acknowledgement holds every answer's body back for 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen = Seen(self.command, self.path, self.headers.get("Range", ""))
        proxy = self.server.proxy
        fault = proxy.next_fault(self.command)
        seen.fault = fault.kind if fault else ""
        proxy.before(seen)
        proxy.seen.append(seen)
        kind = seen.fault
        if kind == "drop":
            return self._hang_up()
        if kind == "stall":
            time.sleep(fault.seconds if fault else 0)
        if kind in REFUSALS:
            status, code = REFUSALS[kind]
            told = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            return self._answer(status, [("Content-Type", "application/xml")], told, seen)
        if fault and kind == "flip_request":
            body = _flipped(body, fault.at)
        status, headers, answer = self._ask(body)
        if kind == "lost":
            return self._hang_up()
        if fault and kind == "flip":
            answer = _flipped(answer, fault.at)
        cut = fault.at if fault and kind == "truncate" else None
        self._answer(status, headers, answer, seen, cut)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.proxy.upstream, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        seen: Seen,
        cut: int | None = None,
    ) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value
            elif name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        part = body if cut is None else body[:cut]
        self.wfile.write(part)
        seen.sent = len(part)
        if cut is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815


def _flipped(data: bytes, at: int) -> bytes:
    if not data:
        return data
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.fixture
def s3_proxy(
    s3_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    """The environment's endpoint is this proxy; it forwards faithfully until it is told not to."""
    proxy = FaultyProxy(s3_server.port)
    use_environment(s3_server.environment | {"AWS_ENDPOINT_URL": proxy.url}, monkeypatch)
    yield proxy
    proxy.close()
