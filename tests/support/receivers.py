"""Servers to which notifications go: a webhook, and a mail server with and without encryption."""

import gzip
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pipelines import tracing


class WebhookServer:
    """Takes POSTs at `url`.

    statuses: status codes of the next answers; 200 after them.
    got: (path, headers, JSON value) of every request.
    """

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.got: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, dict(self.headers), json.loads(body)))
                status = outer.statuses.pop(0) if outer.statuses else 200
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                outer.got.append((self.path, dict(self.headers), None))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def events(self) -> list[str]:
        return [document["event"] for _, _, document in self.got]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class MailServer:
    """Takes mail by SMTP (RFC 5321) at `host`.

    answers: what the next commands of a kind are answered, such as {"RCPT": ["550 no"]}.
    mails: (user or None, whether the line was encrypted, message) of every mail.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, implicit: bool = False) -> None:
        self.answers: dict[str, list[str]] = {}
        self.mails: list[tuple[str | None, bool, EmailMessage]] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def setup(self) -> None:
                self.encrypted = implicit
                if implicit:
                    assert tls
                    self.request = tls.wrap_socket(self.request, server_side=True)
                super().setup()

            def handle(self) -> None:
                outer._talk(self, tls)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _talk(self, line: Any, tls: ssl.SSLContext | None) -> None:
        user: str | None = None

        def say(text: str) -> None:
            line.wfile.write(f"{text}\r\n".encode())

        say("220 test")
        while command := line.rfile.readline().decode().strip():
            verb = command.partition(" ")[0].upper()
            if self.answers.get(verb):
                say(self.answers[verb].pop(0))
            elif verb == "EHLO":
                offers = [] if tls is None or line.encrypted else ["STARTTLS"]
                for offer in ["test", *offers, "8BITMIME"]:
                    say(f"250-{offer}")
                say("250 AUTH PLAIN")
            elif verb == "STARTTLS":
                say("220 go")
                assert tls
                line.request = tls.wrap_socket(line.request, server_side=True)
                line.rfile, line.wfile = line.request.makefile("rb"), line.request.makefile("wb", 0)
                line.encrypted = True
            elif verb == "AUTH":
                user = command.split()[-1]
                say("235 welcome")
            elif verb == "DATA":
                say("354 go on")
                body = b""
                while (part := line.rfile.readline()) != b".\r\n":
                    body += part
                message = message_from_bytes(body, policy=policy.default)
                assert isinstance(message, EmailMessage)
                self.mails.append((user, line.encrypted, message))
                say("250 taken")
            elif verb == "QUIT":
                return say("221 bye")
            else:
                say("250 fine")


class TraceCollector:
    """Takes traces by OTLP over HTTP at `url`, as OpenTelemetry's own collector does.

    spans: (headers of the request, span) of all that came, in the order of their ends.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        outer.spans += [(dict(self.headers), span) for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def tree(self) -> dict[str, Any]:
        """The spans by name, each as what it holds; a span of another process is a root here."""
        nodes: dict[bytes, dict[str, Any]] = {span.span_id: {} for _, span in self.spans}
        found: dict[str, Any] = {}
        for _, span in sorted(self.spans, key=lambda each: each[1].start_time_unix_nano):
            nodes.get(span.parent_span_id, found)[span.name] = nodes[span.span_id]
        return found

    def find(self, name: str) -> Any:
        """The one span of this name."""
        [found] = [span for _, span in self.spans if span.name == name]
        return found

    def attributes(self, name: str) -> dict[str, Any]:
        """The attributes of the one span of this name."""
        return {
            each.key: getattr(each.value, each.value.WhichOneof("value"))
            for each in self.find(name).attributes
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    """A collector to which this process and its children send their traces."""
    server = TraceCollector()
    monkeypatch.delenv(tracing.PARENT, raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    tracing._provider.cache_clear()
    yield server
    tracing._provider.cache_clear()
    server.close()


@pytest.fixture
def webhook() -> Iterator[WebhookServer]:
    server = WebhookServer()
    yield server
    server.close()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.close()


def make_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of 127.0.0.1 that trusts itself, and the context of a server that shows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context
