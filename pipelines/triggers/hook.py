"""Starts a retraining for whoever posts to /retrain with the token, but not too often."""

import hmac
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.clock import Clock, utc
from pipelines.triggers.starters import Status
from pipelines.triggers.watch import Limits, Watch

PATH = "/retrain"
#: Bytes of a request's body that are read, and thrown away.
_BODY = 1 << 16
_ANYTHING = Limits(None, None)


class Hook:
    """Answers requests; one at a time starts something.

    Args:
        token: what a request must show, as `Authorization: Bearer TOKEN`.
        every_s: the least time between two requests that show it, seconds.
    """

    def __init__(self, watch: Watch, token: str, every_s: float, clock: Clock = Clock()) -> None:
        self._watch, self._every, self._clock = watch, every_s, clock
        self._expected = f"Bearer {token}".encode()
        self._lock, self._due = threading.Lock(), clock.now()

    def answer(self, authorization: str) -> tuple[int, dict[str, str], dict[str, str]]:
        """Returns the status, the headers and the JSON value of the answer to a request."""
        if not hmac.compare_digest(authorization.encode(errors="replace"), self._expected):
            return 401, {"WWW-Authenticate": "Bearer"}, {"error": "wrong token"}
        with self._lock:
            left = self._due - self._clock.now()
            if left > 0:
                return 429, {"Retry-After": f"{left + 1:.0f}"}, {"error": "asked too often"}
            self._due = self._clock.now() + self._every
            try:
                poll = self._watch.poll(_ANYTHING, time.time(), asked=True)
            except UserError as error:
                return 503, {}, {"error": str(error)}
        print(poll.line, flush=True)
        if poll.started is None:
            return 409, {}, {"error": poll.line}
        threading.Thread(target=self._follow, args=(poll.started,), daemon=True).start()
        return 202, {}, {"job": poll.started}

    def _follow(self, job: str) -> None:
        status = self._watch.wait(job)
        if status is not Status.ABSENT:
            print(f"{utc(time.time())} {job} {status.told}.", flush=True)


def serve(hook: Hook, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serves `POST /retrain` over plain HTTP until an exception ends the main thread.

    Args:
        port: 0 for any that is free.
        ready: is called with the port, once requests are answered.

    Raises:
        UserError: the address is taken, or none of this machine.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version, sys_version = "srmill", ""

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if self.path != PATH or not re.fullmatch(r"[0-9]{1,18}", length):
                return self._send(404 if self.path != PATH else 400, {}, {"error": "no such hook"})
            self.rfile.read(min(int(length), _BODY))
            return self._send(*hook.answer(self.headers.get("Authorization", "")))

        def do_GET(self) -> None:
            self._send(405, {"Allow": "POST"}, {"error": f"POST {PATH} alone is served"})

        def _send(self, status: int, headers: dict[str, str], value: dict[str, str]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in (headers | {"Content-Type": "application/json"}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: a path may hold anything."""

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            print(f"{utc(time.time())} {self.client_address[0]}: {int(code)}", flush=True)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # the other side has hung up
                super().handle_error(request, client_address)

    try:
        server = Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen at {host} port {port} ({error}): give another --host or --port."
        ) from None
    with server:
        ready(int(server.server_address[1]))
        server.serve_forever()
