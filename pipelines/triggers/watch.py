"""Decides when a retraining is due: photos have come, time has passed, or somebody asks for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.config.arguments import written
from pipelines.config.load import load_config
from pipelines.data.sources import is_photo_name
from pipelines.errors import UserError
from pipelines.storage.clock import utc
from pipelines.storage.digests import digest
from pipelines.storage.files import local_files
from pipelines.storage.paths import absolute_location, resolve
from pipelines.storage.store import LocalStore, open_store
from pipelines.tracing import span
from pipelines.triggers.starters import CODES, Starter, Status
from pipelines.triggers.state import Start, Watched, load, save

#: The longest wait for another trigger of the same run.name, seconds.
_PATIENCE_S = 60.0
#: Letters of a mark, and of the digest in a run's name.
_MARK, _SHORT = 16, 8
#: The beginning of the settings that shape no result.
_BUDGET = ("retrain.max_hours=", "retrain.max_gpu_hours=")


@dataclass(frozen=True)
class Limits:
    """The limits that make a retraining due; None where one does not count.

    photos: the number of new photos since the last start.
    hours: the hours since the last start.
    """

    photos: int | None
    hours: float | None


@dataclass(frozen=True)
class Poll:
    """The finding of a trigger, and what it did.

    Attributes:
        line: all of it in one line.
        started: the name of the job that was started; None if none was.
        runs: whether a retraining of an earlier start still runs.
    """

    line: str
    started: str | None = None
    runs: bool = False


class Watch:
    """A source of photos, and the retrainings that a trigger starts on it.

    Each set of photos gets a `run.name` of its own, since a run is trained on one dataset.

    Args:
        source: a folder or an `s3://` prefix.
        settings: those of jobs/retrain.py, without `source`.
        state: the folder or `s3://` prefix that keeps the state.

    Raises:
        UserError: the source is neither of the two, or a setting is wrong.
    """

    def __init__(
        self, source: str, settings: Sequence[str], starter: Starter, state: str = CODES
    ) -> None:
        self.source = _checked(source)
        if any(setting.partition("=")[0] == "source" for setting in settings):
            raise UserError("the source is named by SOURCE: leave source= out.")
        self._settings, self._starter = tuple(settings), starter
        self.config = load_config(self._arguments(load_config(settings).run.name or "", "0" * 8))
        self.name = str(self.config.run.name)[: -_SHORT - 1]
        self._store = open_store(state, policy=self.config.stream.policy)

    def poll(self, limits: Limits, now: float, *, asked: bool = False, dry: bool = False) -> Poll:
        """Looks at the photos, and starts a retraining if one is due and none runs.

        No byte of a photo is read.

        Args:
            now: the time, in seconds since 1970.
            asked: a retraining is due in any case.
            dry: only says what it would do.

        Raises:
            UserError: the source or the state cannot be read, or the job cannot be started.
        """
        if dry:
            return self._poll(limits, now, asked, dry=True)
        with self._alone():
            return self._poll(limits, now, asked, dry=False)

    def wait(self, job: str) -> Status:
        """Waits for a job that was started on this machine, and notes how it ended."""
        self._starter.wait(job)
        with self._alone():
            status = self._starter.status(job)
            state = load(self._store, self.name, self.source)
            self._note_end(state, status)
        return status

    def stop(self) -> None:
        """Asks the jobs that run on this machine to save their work, and waits for them."""
        self._starter.stop()

    def _poll(self, limits: Limits, now: float, asked: bool, *, dry: bool) -> Poll:
        photos = self._photos()
        state = load(self._store, self.name, self.source)
        new = len(photos.difference(state.seen))
        told = f"{utc(now)} {self.source}: {count(len(photos), 'photo')}, {new} new"
        last, ended = state.start, ""
        if last is not None and last.ended is None:
            status = self._starter.status(last.job)
            if status is Status.RUNS:
                return Poll(f"{told}; {last.job} runs", runs=True)
            if status is Status.BUSY:
                ended, asked = f"; {last.job} {status.told}", True
            elif status is not Status.ABSENT:
                ended = f"; {last.job} {status.told}"
                state = state if dry else self._note_end(state, status)
            elif last.run == self._run(photos):
                return self._begin(last, f"{told}; {last.job} was interrupted", "goes on", dry)
            else:
                # A run is trained on one dataset, under one set of settings.
                ended, asked = f"; {last.job} was interrupted, with other photos or settings", True
        reason = due(len(photos), new, last, limits, now, asked)
        if reason is None:
            return Poll(f"{told}{ended}; {waits(new, last, limits)}")
        start = Start(last.number + 1 if last else 1, self._run(photos), now)
        if not dry:
            # Before the start: a trigger that is killed in between finds it, and goes on.
            save(self._store, self.name, Watched(self.source, tuple(sorted(photos)), start))
        return self._begin(start, f"{told}{ended}; {reason}", "starts", dry)

    def _begin(self, start: Start, told: str, verb: str, dry: bool) -> Poll:
        if dry:
            return Poll(f"{told}: {verb} {start.job} on {self._starter.where} (dry run)")
        with span("new photos", source=self.source, job=start.job, run=start.run):
            self._starter.start(start.job, self._arguments(*start.run.rsplit("-", 1)))
        return Poll(f"{told}: {verb} {start.job} on {self._starter.where}", start.job)

    def _note_end(self, state: Watched, status: Status) -> Watched:
        if state.start is None or not status.is_final:
            return state
        ended = replace(state, start=replace(state.start, ended=str(status)))
        save(self._store, self.name, ended)
        return ended

    def _photos(self) -> set[str]:
        """Returns a mark of each photo in the source."""
        store = open_store(self.source, policy=self.config.stream.policy)
        if isinstance(store, LocalStore) and not store.directory.is_dir():
            raise UserError(f"there is no folder {store.location}: make it, or correct SOURCE.")
        return {
            digest([name, stamp.size, stamp.mark])[:_MARK]
            for name, stamp in store.stamps().items()
            if is_photo_name(name)
        }

    def _run(self, photos: set[str]) -> str:
        """Returns the `run.name` of these photos under these settings.

        With a larger budget it is the same: a retraining that was stopped by it goes on.
        """
        shaping = [each for each in self._settings if not each.startswith(_BUDGET)]
        return f"{self.name}-{digest([sorted(photos), shaping])[:_SHORT]}"

    def _arguments(self, name: str, photos: str) -> list[str]:
        return [*self._settings, f"source={written(self.source)}", f"run.name={name}-{photos}"]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other triggers of the same `run.name` on this machine waiting during the block."""
        path = resolve(CODES) / f".{self.name}.lock"
        lock = FileLock(path)
        with local_files(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=_PATIENCE_S)
            except Timeout:
                raise UserError(
                    f"another trigger of run '{self.name}' is at work: wait for it, or set "
                    "another run.name."
                ) from None
        try:
            yield
        finally:
            lock.release()


def due(
    photos: int, new: int, last: Start | None, limits: Limits, now: float, asked: bool
) -> str | None:
    """Returns why a retraining is due, in words; None if it is not."""
    if not photos:
        return None
    if asked:
        return "a new one is asked for"
    if limits.photos is not None and new >= limits.photos:
        return f"enough for --photos {limits.photos}"
    if limits.hours is not None and last is None:
        return "nothing was started yet"
    if limits.hours is not None and last is not None and now - last.at >= limits.hours * 3600:
        return f"{limits.hours:g} hours have passed"
    return None


def waits(new: int, last: Start | None, limits: Limits) -> str:
    """Returns what a trigger waits for, in words."""
    what = []
    if limits.photos is not None:
        what.append(count(limits.photos - new, "more photo"))
    if limits.hours is not None and last is not None:
        what.append(utc(last.at + limits.hours * 3600))
    return f"waits for {' or '.join(what) or 'the first photo'}"


def count(number: int, what: str) -> str:
    """Returns a number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _checked(source: str) -> str:
    """Returns the source in a form that means the same in every process.

    Raises:
        UserError: it is neither a folder nor an `s3://` prefix.
    """
    location = absolute_location(source)
    open_store(location)
    if "://" not in location and Path(location).is_file():
        raise UserError(f"{location} is a file: give a folder or an s3:// prefix of photos.")
    return location.rstrip("/") or "/"
