"""Downloads a large public file over HTTP, and continues where the connection broke off."""

import hashlib
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock

from pipelines.errors import UserError
from pipelines.progress import progress
from pipelines.storage.files import local_files, write_bytes
from pipelines.storage.retries import Retries, RetryPolicy
from pipelines.storage.typed import Document, read_typed, to_json

CHUNK = 1 << 18
BUSY = (408, 425, 429)
TRANSIENT = (HTTPException, URLError, ConnectionError, TimeoutError, ssl.SSLError)


def download(
    url: str,
    path: Path,
    *,
    size: int | None,
    sha256: str | None = None,
    md5: str | None = None,
    policy: RetryPolicy = RetryPolicy(),
) -> None:
    """Downloads `url` to `path`, which appears when it is complete and its checksum is right.

    The bytes that arrived stay in `<path>.part`. The next attempt continues them, even in another
    process. If `path` exists, this only checks it.

    Args:
        size: the number of bytes; None if it is unknown.

    Raises:
        UserError: the server has no such file or another one, nothing arrives within the policy's
            budget, the disk is full, or a checksum is wrong.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"cannot download '{url}': give a http:// or https:// address.")
    checks = {"sha256": sha256, "md5": md5}
    with local_files(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():
                _check(path, size, checks, f"{path} is not the file of {url}: delete it and repeat")
                return
            arrival = _Arrival(url, path.with_name(f"{path.name}.part"), size)
            arrival.check_ours()
            _receive(arrival, policy)
            try:
                _check(
                    arrival.path,
                    size,
                    checks,
                    f"what {url} holds is not the file that was expected, and was deleted: try "
                    "again, and if it repeats use another mirror",
                )
            except UserError:
                arrival.forget()
                raise
            arrival.path.rename(path)
            arrival.forget()


@dataclass(frozen=True)
class _Note(Document):
    """The content of `<path>.json`, beside a part.

    Attributes:
        validator: the ETag or date of the version that has arrived in part; empty if unknown.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "remove it, and the download begins anew"

    url: str
    validator: str


@dataclass
class _Arrival:
    """A file that has arrived in part, and its note."""

    url: str
    path: Path
    size: int | None

    @property
    def note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def check_ours(self) -> None:
        """Refuses to write over a part that another program left: browsers name theirs so too.

        Raises:
            UserError: there is such a part.
        """
        # The note is written as soon as the part is empty, and so before its first byte.
        if not self.note.exists() and self.path.exists() and self.path.stat().st_size > 0:
            raise UserError(f"{self.path} is not a download of SRMill: remove or rename it.")
        if self.note.exists():
            read_typed(_Note, self.note.read_bytes(), str(self.note))

    def validator(self) -> str:
        """Returns the ETag or date of the version that has arrived in part; empty if unknown."""
        if not (self.note.exists() and self.path.exists()):
            return ""
        note = read_typed(_Note, self.note.read_bytes(), str(self.note))
        return note.validator if note.url == self.url else ""

    def received(self) -> int:
        return self.path.stat().st_size if self.validator() else 0

    def start_over(self, validator: str) -> None:
        self.path.write_bytes(b"")
        write_bytes(self.note, to_json(_Note(self.url, validator)))

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _receive(arrival: _Arrival, policy: RetryPolicy) -> None:
    """Requests the missing bytes until all have arrived."""
    retries = Retries(policy, f"download {arrival.url}")
    while True:
        try:
            with _answer(arrival, policy) as answer:
                if answer is not None:
                    _append(answer, arrival, retries)
                return
        except HTTPError as error:
            if error.code < 500 and error.code not in BUSY:
                raise UserError(
                    f"{arrival.url} cannot be downloaded ({error.code} {error.reason}): correct "
                    "the address or use another mirror."
                ) from error
            retries.failed(error)
        except TRANSIENT as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise UserError(
                    f"the certificate of {arrival.url} is not trusted ({error}): set "
                    "SSL_CERT_FILE to your network's certificates, or use another mirror."
                ) from error
            retries.failed(error)


@contextmanager
def _answer(arrival: _Arrival, policy: RetryPolicy) -> Iterator[Any]:
    """Gives the answer whose body continues `arrival`; None if no byte is missing."""
    here = arrival.received()
    if here and here == arrival.size:
        yield None
        return
    headers = {"User-Agent": "srmill", "Accept-Encoding": "identity"}
    if here:
        # With If-Range, a server that has another version by now sends it from its start.
        headers |= {"Range": f"bytes={here}-", "If-Range": arrival.validator()}
    try:
        answer = urlopen(Request(arrival.url, headers=headers), timeout=policy.answer_s)
    except HTTPError as error:
        if error.code != 416:
            raise
        # The arrived bytes are as many as the file's, or more; the answer does not say which.
        arrival.forget()
        raise ConnectionError("the server's file is shorter than the part that arrived") from error
    with answer:
        if answer.status != 206:
            arrival.start_over(_version(answer))
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            arrival.forget()
            raise ConnectionError("the server sent another range than it was asked for")
        yield answer


def _version(answer: HTTPResponse) -> str:
    """Returns a strong validator for If-Range; empty if the answer has none."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


def _append(answer: HTTPResponse, arrival: _Arrival, retries: Retries) -> None:
    here = arrival.path.stat().st_size
    length = answer.headers.get("Content-Length")
    total = None if length is None else here + int(length)
    if arrival.size is not None and total is not None and total != arrival.size:
        arrival.forget()
        raise UserError(
            f"{arrival.url} has {total} bytes and not {arrival.size}: the file was replaced, so "
            "use another mirror, or a newer release of this program."
        )
    mib = -(-(total or arrival.size or 0) // 2**20)
    label = f"download {arrival.path.stem}"
    with (
        arrival.path.open("ab") as file,
        progress(label, total=mib, unit="MiB", initial=here >> 20) as bar,
    ):
        # read1 returns the bytes that have arrived; read would lose them if the line drops.
        while chunk := answer.read1(CHUNK):
            file.write(chunk)
            retries.progress()
            before, here = here, here + len(chunk)
            bar.update((here >> 20) - (before >> 20) + (here == total and here % 2**20 > 0))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and here < total:
        raise ConnectionError(f"the line dropped after {here} of {total} bytes")


def _check(path: Path, size: int | None, checks: dict[str, str | None], told: str) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise UserError(f"{told} ({found} bytes, not {size}).")
    for name, expected in checks.items():
        if expected is None:
            continue
        with path.open("rb") as file:
            found_digest = hashlib.file_digest(file, name).hexdigest()
        if found_digest != expected.lower():
            raise UserError(f"{told} ({name} {found_digest}, not {expected}).")
