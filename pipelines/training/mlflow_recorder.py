"""Sends the records of callbacks to MLflow from a thread of its own.

The training never waits for the server, however long the server is away.
"""

import logging
import random
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from PIL import Image

from pipelines.errors import redacted
from pipelines.mlflow_client import open_client, single_attempts
from pipelines.storage.retries import count_failure
from pipelines.training.recorder import picture_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

#: The number of values that MLflow takes in one request.
MAX_BATCH = 1000
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 15.0
#: Errors that no other attempt would mend: the run is gone, or a name is not allowed.
_FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


@dataclass(frozen=True)
class _Value:
    name: str
    value: float
    step: int
    #: Milliseconds since the epoch.
    time: int


@dataclass(frozen=True)
class _File:
    path: Path
    folder: str
    temporary: bool = False


class MLflowRecorder:
    """A recorder to a run of an MLflow server, or of a sqlite file.

    Values arrive once, in the order in which they were recorded. After a failure they are sent
    again with the same time, and MLflow takes a value with the same time for the same value. A
    picture or file that is sent again overwrites itself. Values never wait for files. While it
    sends, MLflow in this process makes single attempts of 30 s, unless the environment says
    otherwise.

    Args:
        uri: address of the tracking server.
        run_id: id of an existing run.
        patience_s: seconds that `close` waits for records that have not arrived.
    """

    def __init__(self, uri: str, run_id: str, *, patience_s: float) -> None:
        self._uri, self._run_id, self._patience_s = uri, run_id, patience_s
        self._values: deque[_Value] = deque()
        self._files: deque[_File] = deque()
        self._work, self._closing, self._gave_up = Event(), Event(), Event()
        self._client: MlflowClient | None = None
        self._last: dict[str, int] = {}
        self._failures = self._refused = 0
        self._reason = "no answer yet"
        self._spool = tempfile.TemporaryDirectory("-srmill")
        self._thread = Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        self._values.extend(_Value(name, float(v), step, now) for name, v in values.items())
        self._work.set()

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        place = picture_path(name, step)
        try:
            # On disk, not in memory: a server may be away for a night.
            path = Path(tempfile.mkdtemp(dir=self._spool.name)) / place.name
            image.save(path)
        except OSError as error:
            return log.warning("cannot keep picture %s for MLflow: %s", place, error)
        self._files.append(_File(path, str(place.parent), temporary=True))
        self._work.set()

    def file(self, path: Path, folder: str) -> None:
        self._files.append(_File(path, folder))
        self._work.set()

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        self._work.set()
        self._thread.join(self._patience_s)
        self._gave_up.set()
        if self._thread.is_alive():
            log.warning(
                "%d values and %d files did not arrive at MLflow (%s): they are lost",
                len(self._values), len(self._files), self._reason,
            )  # fmt: skip
        if self._refused:
            log.warning("MLflow refused %d values and files in all", self._refused)
        self._spool.cleanup()

    def _run(self) -> None:
        while not self._gave_up.is_set():
            if self._values or self._files:
                try:
                    with single_attempts():
                        self._send_next()
                except Exception as error:  # MLflow, requests, boto3 and sqlite raise many kinds.
                    self._failed(error)
                continue
            if self._failures:
                log.warning("MLflow answers again, and everything has arrived")
                self._failures = 0
            if self._closing.is_set():
                return
            self._work.wait()
            self._work.clear()

    def _send_next(self) -> None:
        """Sends the oldest values to MLflow, or a file where no values wait."""
        if values := list(islice(self._values, MAX_BATCH)):
            with self._refusals(len(values)):
                self._send_values(values)
            for _ in values:
                self._values.popleft()
        else:
            file = self._files[0]
            with self._refusals(1):
                if not file.path.exists():
                    raise _GoneError(f"{file.path} is not there any more")
                self._connected().log_artifact(self._run_id, str(file.path), file.folder)
            self._files.popleft()
            if file.temporary:
                shutil.rmtree(file.path.parent, ignore_errors=True)

    @contextmanager
    def _refusals(self, count: int) -> Iterator[None]:
        """Passes over errors that no other attempt would mend; warns once, and counts them."""
        try:
            yield
        except Exception as error:
            if not _is_final(error):
                raise
            if not self._refused:
                log.warning("MLflow refuses what is recorded: %s", self._told(error))
            self._refused += count

    def _send_values(self, values: list[_Value]) -> None:
        from mlflow.entities import Metric

        client, last, fresh = self._connected(), dict(self._last), []
        for value in values:
            if value.step > last.get(value.name, -1):
                last[value.name] = value.step
                fresh.append(Metric(value.name, value.value, value.time, value.step))
        client.log_batch(self._run_id, metrics=fresh, synchronous=True)
        self._last = last

    def _connected(self) -> "MlflowClient":
        """Returns the client, after the server has told the last step of each name."""
        if self._client is None:
            client = open_client(self._uri)
            known = client.get_run(self._run_id).data.to_proto().metrics
            self._last = {metric.key: metric.step for metric in known}
            self._client = client
        return self._client

    def _failed(self, error: Exception) -> None:
        """Waits until the next attempt; warns once per outage."""
        count_failure()
        self._reason = self._told(error)
        if not self._failures:
            log.warning("MLflow is away, the training goes on without it (%s)", self._reason)
        longest = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures, 10))
        self._failures += 1
        if self._closing.is_set():
            self._gave_up.wait(FIRST_DELAY_S)
        else:
            self._closing.wait(random.uniform(longest / 2, longest))

    def _told(self, error: Exception) -> str:
        """Returns the error in one line."""
        return redacted(" ".join(str(error).split()) or type(error).__name__)[:300]


class _GoneError(Exception):
    """The error for a file that was removed before it could be sent."""


def _is_final(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    refused = isinstance(error, MlflowException) and error.error_code in _FINAL
    return refused or isinstance(error, _GoneError)
