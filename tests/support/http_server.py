"""A plain web server for tests: one file, with or without ranges, over a line that can drop."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class WebFile:
    """A file that the server serves, with its faults.

    cuts: number of bytes of each next answer's body that are sent before the line drops.
    statuses: status codes of the next answers, which come without the file.
    delay_s: delay before each 64 KiB of a body.
    answers: number of answers with a body, after which the server only says 503.
    sent: (first byte, bytes sent) of every answer with a body.
    """

    data: bytes
    etag: str | None = '"version-1"'
    date: str | None = None
    ranges: bool = True
    delay_s: float = 0.0
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    answers: int | None = None
    sent: list[tuple[int, int]] = field(default_factory=list)


class WebServer:
    """Serves `files` by path, at `url`."""

    def __init__(self) -> None:
        self.files: dict[str, WebFile] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.files = self.files
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, name: str, file: WebFile) -> str:
        """Adds a file and returns its URL."""
        self.files[f"/{name}"] = file
        return f"{self.url}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    files: dict[str, WebFile]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        file = self.server.files.get(self.path)
        if file is None:
            return self.send_error(404)
        if file.statuses:
            return self.send_error(file.statuses.pop(0))
        if file.answers is not None and len(file.sent) >= file.answers:
            return self.send_error(503)
        start = self._start(file)
        if start > len(file.data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            last, total = len(file.data) - 1, len(file.data)
            self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
        for name, value in (("ETag", file.etag), ("Last-Modified", file.date)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(file.data) - start))
        self.end_headers()
        self._send(file, start)

    def _start(self, file: WebFile) -> int:
        """The first byte to send: what the client asks for, if it asks about this version."""
        asked = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        known = self.headers.get("If-Range")
        if not (asked and file.ranges) or (known and known not in (file.etag, file.date)):
            return 0
        return int(asked)

    def _send(self, file: WebFile, start: int) -> None:
        cut = file.cuts.pop(0) if file.cuts else None
        body = file.data[start:] if cut is None else file.data[start : start + cut]
        index = len(file.sent)
        file.sent.append((start, 0))
        for at in range(0, len(body), 1 << 16):
            time.sleep(file.delay_s)
            piece = body[at : at + (1 << 16)]
            self.wfile.write(piece)
            file.sent[index] = (start, at + len(piece))
        self.close_connection = cut is not None


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def http_date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)
