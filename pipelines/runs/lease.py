"""Lets only one job train a run, by a lock on its directory or by a lease object in s3://."""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def lease(store: Store, name: str, policy: RetryPolicy = POLICY) -> Iterator[None]:
    """Holds the lease of a run during the block.

    For s3:// the main thread must call it, since a lost lease interrupts that thread. A process
    loses its lease if it sleeps for longer than ABANDONED_S.

    Args:
        store: the run's directory or `s3://` prefix.
        name: the name of the run, for messages.
        policy: limits the waiting for s3; its clock measures the lease.

    Raises:
        UserError: another process trains the run, or has taken it over.
    """
    if isinstance(store, LocalStore):
        with _directory_lease(store.directory, name):
            yield
        return
    held = _ObjectLease(store.location, name, policy)
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
            f"run '{name}' was taken over by another job while this process was not "
            "running or had no network: let the other one go on."
        )


@contextmanager
def _directory_lease(directory: Path, name: str) -> Iterator[None]:
    with local_files(directory):
        directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _taken(name) from None
    try:
        yield
    finally:
        lock.release()


class _ObjectLease:
    """The lease object `lease.json` in the run's prefix.

    A holder is alive if the object changes while another job watches it. So nobody compares the
    clocks of different machines.
    """

    def __init__(self, location: str, name: str, policy: RetryPolicy) -> None:
        self.name, self.lost, self._clock = name, False, policy.clock
        self._store = open_store(location, policy=policy)
        self._token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="lease")

    def acquire(self) -> None:
        """Claims the lease, and starts to renew it.

        Raises:
            UserError: another process trains the run.
        """
        if (seen := self._read()) is not None:
            self._wait_for_its_end(seen)
        self._write()
        # Not every S3 server has compare-and-set, so the later of two claims replaces the other.
        self._clock.sleep(SETTLE_S)
        if not self._is_mine():
            raise _taken(self.name)
        self._thread.start()

    def release(self) -> None:
        """Stops to renew the lease, and deletes it if this process still holds it."""
        self._ended.set()
        self._thread.join()
        try:
            if self._is_mine():
                self._store.delete(OBJECT)
        except UserError as error:
            log.warning("the lease of run %s stays for %.0f s: %s", self.name, ABANDONED_S, error)

    def _wait_for_its_end(self, seen: bytes) -> None:
        """Waits until the holder of the lease is gone.

        Raises:
            UserError: the holder is alive.
        """
        told = _holder(seen)
        print(
            f"{self.name}: {told} held this run last; waiting up to {ABANDONED_S:.0f} s to see "
            "whether it still does.",
            flush=True,
        )
        deadline = self._clock.now() + ABANDONED_S
        while self._clock.now() < deadline:
            self._clock.sleep(LOOK_S)
            now = self._read()
            if now is None:
                return
            if now != seen:
                raise _taken(self.name, f" ({_holder(now)})")
        print(f"{self.name}: {told} shows no sign of life, so this job takes over.", flush=True)

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
                log.warning("cannot renew the lease of run %s: %s", self.name, error)

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


def _taken(name: str, holder: str = "") -> UserError:
    return UserError(
        f"run '{name}' is being trained by another job{holder}: wait for it, stop it, or choose "
        "another run.name."
    )
