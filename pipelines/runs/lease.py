"""Lets only one job train a run, or retrain a model, by a lock on a directory or by a lease object
in s3://."""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.errors import UserError, told
from pipelines.storage.files import MissingFileError, local_files
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import LocalStore, Store, open_store
from pipelines.storage.typed import parse_json

log = logging.getLogger(__name__)

OBJECT = "lease.json"
# A holder rewrites its object every BEAT_S. If it has not for ABANDONED_S, the lease is abandoned.
BEAT_S, ABANDONED_S = 10.0, 45.0
# A waiting job looks every LOOK_S. After SETTLE_S, two jobs that claim at once see each other.
LOOK_S, SETTLE_S = 2.0, 1.0
POLICY = RetryPolicy(budget_s=20.0, timeout_s=5.0)


@dataclass(frozen=True)
class Words:
    """The words by which messages name a lease.

    Attributes:
        what: its name, such as `run 'x'`.
        taken: returns the error for whoever finds another job at work, whom its argument names
            (an empty text if nobody knows).
    """

    what: str
    taken: Callable[[str], Exception]


def of_run(name: str) -> Words:
    """Returns how messages tell of the lease of a run."""
    return Words(
        f"run '{name}'",
        lambda holder: UserError(
            f"run '{name}' is being trained by another job{f' ({holder})' if holder else ''}: wait "
            "for it, stop it, or choose another run.name."
        ),
    )


@contextmanager
def lease(store: Store, words: Words, policy: RetryPolicy = POLICY) -> Iterator[None]:
    """Holds the lease of a run, or of a model, during the block.

    For s3:// the main thread must call it, since a lost lease interrupts that thread. A process
    loses its lease if it sleeps for longer than ABANDONED_S.

    Args:
        store: the directory or `s3://` prefix of the run, or of the model's retrainings.
        policy: limits the waiting for s3; its clock measures the lease.

    Raises:
        Exception: another process holds it: `words.taken`.
        UserError: another process has taken it over.
    """
    if isinstance(store, LocalStore):
        with _directory_lease(store.directory, words):
            yield
        return
    held = _ObjectLease(store.location, words, policy)
    held.acquire()
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not held.lost:
            raise
    finally:
        held.release()
    if held.lost:
        raise UserError(
            f"{words.what} was taken over by another job while this process was not running or had "
            "no network: let the other one go on."
        )


@contextmanager
def _directory_lease(directory: Path, words: Words) -> Iterator[None]:
    with local_files(directory):
        directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise words.taken("") from None
    try:
        yield
    finally:
        lock.release()


class _ObjectLease:
    """The lease object `lease.json` in the prefix.

    A holder is alive if the object changes while another job watches it. So nobody compares the
    clocks of different machines.
    """

    def __init__(self, location: str, words: Words, policy: RetryPolicy) -> None:
        self.words, self.lost, self._clock = words, False, policy.clock
        self._store = open_store(location, policy=policy)
        self._token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="lease")

    def acquire(self) -> None:
        """Claims the lease, and starts to renew it.

        Raises:
            Exception: another process holds it.
        """
        if (seen := self._read()) is not None:
            self._wait_for_its_end(seen)
        self._write()
        # Not every S3 server has compare-and-set, so the later of two claims replaces the other.
        self._clock.sleep(SETTLE_S)
        if not self._is_mine():
            raise self.words.taken("")
        self._thread.start()

    def release(self) -> None:
        """Stops to renew the lease, and deletes it if this process still holds it."""
        self._ended.set()
        self._thread.join()
        try:
            if self._is_mine():
                self._store.delete(OBJECT)
        except UserError as error:
            what = self.words.what
            log.warning("the lease of %s stays for %.0f s: %s", what, ABANDONED_S, error)

    def _wait_for_its_end(self, seen: bytes) -> None:
        """Waits until the holder of the lease is gone.

        Raises:
            Exception: the holder is alive.
        """
        told = _holder(seen)
        print(
            f"{told} held {self.words.what} last; waiting up to {ABANDONED_S:.0f} s to see whether "
            "it still does.",
            flush=True,
        )
        deadline = self._clock.now() + ABANDONED_S
        while self._clock.now() < deadline:
            self._clock.sleep(LOOK_S)
            now = self._read()
            if now is None:
                return
            if now != seen:
                raise self.words.taken(_holder(now))
        print(f"{told} shows no sign of life, so this job takes over.", flush=True)

    def _live(self) -> None:
        while not self._clock.wait(self._ended, BEAT_S):
            try:
                if not self._is_mine():
                    self.lost = True
                    # _thread.interrupt_main does not wake a thread that waits.
                    main = threading.main_thread().ident
                    assert main is not None
                    signal.pthread_kill(main, signal.SIGINT)
                    return
                self._write()
            except UserError as error:
                log.warning("cannot renew the lease of %s: %s", self.words.what, error)

    def _is_mine(self) -> bool:
        return self._token.encode() in (self._read() or b"")

    def _read(self) -> bytes | None:
        try:
            return self._store.read(OBJECT)
        except MissingFileError:
            return None

    def _write(self) -> None:
        values = {"holder": self._token, "host": socket.gethostname(), "pid": os.getpid()}
        self._store.write(OBJECT, json.dumps(values | {"time": time.time()}).encode())


def _holder(content: bytes) -> str:
    try:
        values = parse_json(content)
        return told(f"process {values['pid']} on {values['host']}")
    except (ValueError, KeyError, TypeError):
        return "a job"
