"""Makes an s3:// prefix a store, over a network that drops, stalls and answers 503.

botocore, the core of boto3, finds addresses and credentials by itself (AWS_ENDPOINT_URL,
AWS_PROFILE, …).
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session  # type: ignore[import-untyped]
from botocore import exceptions as boto
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.loaders import Loader, create_loader  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError

from pipelines.errors import UserError, told
from pipelines.storage.files import MissingFileError, local_files, no_file, whole_file
from pipelines.storage.retries import Retries, RetryPolicy
from pipelines.storage.store import Stamp, check_name, wrong_size

# On a cluster's workers a handler of others prints where each client has found its credentials.
for _name in ("credentials", "regions", "configprovider"):
    logging.getLogger(f"botocore.{_name}").setLevel(logging.WARNING)

PART = 8 << 20
MOST_PARTS = 10_000
THREADS = 4
# It is small because a body that breaks off loses the bytes of its last chunk.
CHUNK = 1 << 16

NETWORK = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, HTTPError)
TRANSIENT = (*NETWORK, ResponseParserError, ConnectionError, TimeoutError)
# botocore raises ValueError for a malformed AWS_ENDPOINT_URL.
FAILURES = (*TRANSIENT, boto.BotoCoreError, boto.ClientError, ValueError)
# The beginnings of error codes below 500 that another attempt cures: the server is overloaded,
# bytes were damaged on their way to it, or two created one object at once.
CURABLE = (
    "BadDigest",
    "ConditionalRequestConflict",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "XAmzContent",
)
# When a body breaks off before its first byte, botocore returns an answer without these fields.
NEEDED = {"list_objects_v2": "IsTruncated", "create_multipart_upload": "UploadId"}
#: Endpoints that have answered this process.
_ANSWERED: set[str] = set()
NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)


def _session() -> Any:
    """Returns a new session: another store may have other settings and credentials.

    All sessions share what botocore reads of its own files, which takes most of a client's time.
    """
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    return session


@functools.cache
def _loader(data_path: str | None) -> Loader:
    return create_loader(data_path)


class _ReplacedError(Exception):
    """The object was replaced while it was read, or its checksum was wrong."""


class S3Store:
    """The objects under `s3://bucket/prefix` as a store (see `pipelines.storage.store.Store`).

    A read returns bytes of one version of the object, and of the right length. It does not check
    their content: readers do so with a digest (see `pipelines.data.cache`).
    """

    def __init__(
        self,
        location: str,
        policy: RetryPolicy,
        page: int = 1000,
        part: int = PART,
        known: bool = False,
    ) -> None:
        self._bucket, _, prefix = location.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise UserError(f"'{location}' names no bucket: write s3://bucket/prefix.")
        self._prefix = check_name(f"{prefix.strip('/')}/".lstrip("/"), prefix=True)
        self.location = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._policy, self._page, self._part, self._known = policy, page, part, known
        self._clients: dict[int, Any] = {}
        self._locks: dict[int, threading.Lock] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # What has answered the driver of a job is known to its workers.
        return S3Store, (self.location, self._policy, self._page, self._part, self._is_known())

    def _connect(self) -> Any:
        # A forked child must not share its parent's sockets, nor wait for a lock that a thread
        # of the parent holds.
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            if pid not in self._clients:
                # botocore's own retries would multiply with those of `Retries`, and hide them.
                once, wait = {"total_max_attempts": 1}, self._policy.answer_s
                config = Config(
                    retries=once, connect_timeout=wait, read_timeout=wait, max_pool_connections=32
                )
                self._clients = {pid: _session().create_client("s3", config=config)}
            return self._clients[pid]

    def _where(self, name: str) -> str:
        return f"{self.location}/{name}" if name else self.location

    def _is_known(self) -> bool:
        """Returns True if the server has answered this process, or the one that sent the store."""
        client = self._clients.get(os.getpid())
        return self._known or (client is not None and client.meta.endpoint_url in _ANSWERED)

    def _retries(self, verb: str, name: str) -> Retries:
        return Retries(self._policy, f"{verb} {self._where(name)}", self._is_known)

    def _call(self, retries: Retries, method: str, name: str, **parameters: Any) -> Any:
        """Sends a request until the server answers it."""
        if method != "list_objects_v2":
            parameters["Key"] = self._prefix + check_name(name)
        while True:
            try:
                client = self._connect()
                answer = getattr(client, method)(Bucket=self._bucket, **parameters)
                _ANSWERED.add(client.meta.endpoint_url)
                if NEEDED.get(method, "ResponseMetadata") in answer:
                    return answer
                raise ResponseParserError("the answer broke off")
            except FAILURES as error:
                self._failed(error, retries, name)

    def _failed(self, error: Exception, retries: Retries, name: str) -> None:
        """Waits if another attempt may help; raises an error that a user understands if not."""
        where = self._where(name)
        refused = isinstance(error, boto.ClientError)
        if _transient(error):
            return retries.failed(error, busy=refused or isinstance(error, boto.ReadTimeoutError))
        if refused:
            _ANSWERED.add(self._connect().meta.endpoint_url)
            raise self._refusal(error, where) from error
        if isinstance(error, NO_CREDENTIALS):
            raise UserError(
                f"there are no S3 credentials for {where} ({error}): set AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for every process of the job."
            ) from error
        raise UserError(
            f"cannot use {where} ({told(error)}): correct it or the AWS_… settings."
        ) from error

    def _refusal(self, error: Any, where: str) -> Exception:
        status, code = _status_code(error)
        host = urlsplit(self._connect().meta.endpoint_url).netloc.rpartition("@")[2]
        if status == 412:
            return _ReplacedError(f"{where} was replaced while it was read")
        if status == 416:
            return EOFError(f"{where} ends before the first byte that was asked for")
        if code == "NoSuchBucket":
            return UserError(f"no bucket '{self._bucket}' at {host}: create it or correct {where}.")
        if status == 404:
            return no_file(where)
        if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
            return UserError(
                f"{host} refuses access to {where} ({code or status}): check that AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, are right, have not expired and may "
                "use this bucket, and that this machine's clock is right."
            )
        return UserError(
            f"{host} refuses a request for {where} ({status}, {error}): check AWS_ENDPOINT_URL, "
            "AWS_REGION and the name."
        )

    def size(self, name: str) -> int | None:
        answer = self._head(self._retries("look up", name), name)
        return None if answer is None else int(answer["ContentLength"])

    def _head(self, retries: Retries, name: str) -> Any:
        """Returns what the server says of an object; None if there is no such object."""
        try:
            return self._call(retries, "head_object", name)
        except MissingFileError:
            # A HEAD's 404 has no body: only a listing says whether the bucket itself is absent.
            self._call(retries, "list_objects_v2", "", MaxKeys=1)
            return None

    def names(self, prefix: str = "") -> list[str]:
        return list(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {name: stamp.size for name, stamp in self.stamps(prefix).items()}

    def stamps(self, prefix: str = "") -> dict[str, Stamp]:
        start = self._prefix + check_name(prefix, prefix=True)
        request: dict[str, Any] = {"Prefix": start, "MaxKeys": self._page}
        retries = self._retries("list", prefix)
        found: dict[str, Stamp] = {}
        while True:
            answer = self._call(retries, "list_objects_v2", prefix, **request)
            retries.progress()
            for entry in answer.get("Contents", ()):
                name = entry["Key"][len(self._prefix) :]
                found[name] = Stamp(int(entry["Size"]), str(entry.get("ETag", "")).strip('"'))
            if not answer["IsTruncated"]:
                # Consoles and file gateways make empty objects whose names end in a slash.
                return {name: found[name] for name in sorted(found) if not name.endswith("/")}
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        retries = self._retries("read", name)
        while True:
            try:
                stop = None if size is None else offset + max(size, 1)
                return b"".join(self._stream(retries, name, offset, stop))[:size]
            except EOFError:
                return b""
            except _ReplacedError as error:
                retries.failed(error)

    def _stream(
        self, retries: Retries, name: str, start: int, stop: int | None, etag: str = ""
    ) -> Iterator[bytes]:
        """Yields the bytes from `start` to `stop` of one version, and continues a broken body."""
        while stop is None or start < stop:
            request = {"IfMatch": etag} if etag else {}
            if start or stop is not None:
                request["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            answer = self._call(retries, "get_object", name, **request)
            given = answer.get("ContentRange", "")
            if "Range" in request and not given.startswith(f"bytes {start}-"):
                where = self._where(name)
                raise UserError(f"the server of {where} serves no byte ranges: use another.")
            etag = answer["ETag"]
            total = int(given.rpartition("/")[2] or start + answer["ContentLength"])
            stop = total if stop is None else min(stop, total)
            try:
                with answer["Body"]:
                    for chunk in answer["Body"].iter_chunks(CHUNK):
                        start += len(chunk)
                        retries.progress()
                        yield chunk
            except boto.FlexibleChecksumError as error:
                raise _ReplacedError(str(error)) from error  # read all of it again
            except FAILURES as error:
                self._failed(error, retries, name)

    def fetch(self, name: str, path: Path, *, size: int) -> None:
        retries = self._retries("fetch", name)
        while True:
            if (head := self._head(retries, name)) is None:
                raise no_file(self._where(name))
            if head["ContentLength"] != size:
                raise wrong_size(self._where(name), head["ContentLength"], size)
            try:
                with whole_file(path, durable=False) as temporary:
                    stream = partial(self._stream, retries, name, etag=head["ETag"])
                    _in_parts(size, self._part, partial(_write_part, temporary, stream))
                return
            except _ReplacedError as error:
                retries.failed(error)

    def write(self, name: str, data: bytes) -> None:
        self._call(self._retries("write", name), "put_object", name, Body=data)

    def create(self, name: str, data: bytes) -> bool:
        try:
            retries = self._retries("create", name)
            self._call(retries, "put_object", name, Body=data, IfNoneMatch="*")
        except _ReplacedError:
            # An earlier attempt created it if its answer was lost.
            return self.read(name) == data
        return True

    def write_file(self, name: str, path: Path) -> None:
        """Writes a file; sends a large one in parts, and repeats only the parts that fail."""
        with local_files(path), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= self._part:
                return self.write(name, file.read())
            retries = self._retries("write", name)
            upload = self._call(retries, "create_multipart_upload", name)["UploadId"]
            length = max(self._part, -(-size // MOST_PARTS))

            def part(start: int, stop: int) -> dict[str, Any]:
                request = {"UploadId": upload, "PartNumber": start // length + 1}
                body = os.pread(file.fileno(), stop - start, start)
                if len(body) < stop - start:
                    raise wrong_size(str(path), start + len(body), size)
                answer = self._call(retries, "upload_part", name, Body=body, **request)
                retries.progress()
                checksums = {k: v for k, v in answer.items() if k.startswith("ChecksumC")}
                return {"PartNumber": request["PartNumber"], "ETag": answer["ETag"]} | checksums

            try:
                self._complete(retries, name, upload, _in_parts(size, length, part), size)
            except BaseException:
                # A server keeps and bills the parts of an upload until somebody aborts it.
                brief = replace(self._policy, budget_s=5.0)
                patience = Retries(brief, f"abort the upload of {name}")
                with suppress(UserError):
                    self._call(patience, "abort_multipart_upload", name, UploadId=upload)
                raise

    def _complete(self, retries: Retries, name: str, upload: str, parts: Any, size: int) -> None:
        request = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
        try:
            self._call(retries, "complete_multipart_upload", name, **request)
        except MissingFileError:
            # The upload is gone if an earlier attempt completed it and the answer was lost.
            if self.size(name) != size:
                raise

    def delete(self, name: str) -> None:
        self._call(self._retries("delete", name), "delete_object", name)


def _in_parts(size: int, length: int, do: Callable[[int, int], Any]) -> list[Any]:
    """Returns what `do(start, stop)` gives for each part of `size` bytes; runs a few at once."""
    starts = range(0, size, length)
    with ThreadPoolExecutor(THREADS) as threads:
        # When one call fails, map cancels those that have not begun.
        return list(threads.map(lambda start: do(start, min(start + length, size)), starts))


def _write_part(path: Path, stream: Callable[..., Iterator[bytes]], start: int, stop: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.writelines(stream(start, stop))
        assert file.tell() == stop, (file.tell(), stop)


def _status_code(error: Any) -> tuple[int, str]:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(error.response.get("Error", {}).get("Code", ""))


def _transient(error: Exception) -> bool:
    if isinstance(error, boto.ClientError):
        status, code = _status_code(error)
        return status == 429 or status >= 500 or code.startswith(CURABLE)
    # Another attempt does not cure a refused certificate.
    return isinstance(error, TRANSIENT) and "CERTIFICATE_VERIFY_FAILED" not in str(error)
