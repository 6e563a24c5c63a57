"""Keeps a record of every retraining of a model, by the digest of its inputs, and lists them."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import ClassVar

from pipelines.config.load import to_dict
from pipelines.config.schema import Config
from pipelines.data.dataset import dataset_exists, split_location
from pipelines.data.manifest import Manifest
from pipelines.errors import aligned, printable
from pipelines.retrain import inputs
from pipelines.revision import git_commit
from pipelines.storage.clock import utc
from pipelines.storage.digests import digest
from pipelines.storage.forms import UtcTime
from pipelines.storage.paths import absolute_location
from pipelines.storage.store import Store, open_store
from pipelines.storage.typed import Document, read_typed, to_json

#: Settings of `retrain` and of a job that shape no result: they may change from start to start.
_FREE = ("records", "max_hours", "max_gpu_hours")
_FOLDER = "retrainings/"
#: No run has a name with an '@': so begin the folders of models, not those of the steps' records.
_MODEL = "@"
#: Seconds without a word after which a retraining counts as interrupted; it writes every BEAT_S.
BEAT_S, SILENT_S = 10.0, 60.0


class Verdict(StrEnum):
    """The verdict on a retraining: how it ended, or that it still runs."""

    RUNNING = "running"
    PROMOTED = "promoted"
    REFUSED = "refused"
    #: The gate was not asked: register.promote=never.
    REGISTERED = "registered"
    #: No photo came that could be trained on.
    NOTHING = "nothing new"
    FAILED = "failed"
    STOPPED = "stopped by the budget"
    INTERRUPTED = "interrupted"


#: The verdicts of retrainings that have done their work.
DONE = (Verdict.PROMOTED, Verdict.REFUSED, Verdict.REGISTERED, Verdict.NOTHING)


@dataclass(frozen=True)
class Given:
    """The inputs of a retraining; their digest names its record.

    Attributes:
        photos: digest of the source's listing.
        config: digest of the configuration, without records, budget and `notify.*`.
        code: the commit of the code; None where nobody knows it.
        champion: the version that was champion when it began; None if there was none.
    """

    photos: str
    config: str
    code: str | None
    champion: str | None

    @property
    def digest(self) -> str:
        """The digest of all inputs, 64 hexadecimal digits."""
        return digest(asdict(self))


@dataclass(frozen=True)
class Photos:
    """A dataset: the digest of its manifest, and the number of photos in it."""

    manifest: str
    count: int


@dataclass(frozen=True)
class Cost:
    """The cost of a retraining, or of a part of it.

    Attributes:
        wall_hours: the time that its job ran.
        gpu_hours: the time that workers held GPUs for training, added up over the GPUs.
        cpu_hours: the time that workers held CPU cores for training, added up over the cores.
    """

    wall_hours: float = 0.0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.wall_hours + other.wall_hours,
            self.gpu_hours + other.gpu_hours,
            self.cpu_hours + other.cpu_hours,
        )


@dataclass(frozen=True)
class Retraining(Document):
    """One retraining, over all its starts. Times are in UTC, as 2026-11-29T08:00:00Z.

    Attributes:
        run: its `run.name`.
        model: the registered model.
        started: the time of its first start.
        updated: the time at which the record was written last; while it runs, every few seconds.
        ended: the time of its last end; None while it runs.
        starts: the number of times that it was started.
        step: the step of the chain that runs, or ran last.
        before: the dataset at its first start; None if there was none.
        after: the dataset that it trains on; None before the photos are sharded.
        steps: the optimizer steps that the runs of its stages have, together.
        cost: what all starts together took.
        registered: the version that came of it.
        against: the version that was champion when the gate decided.
        verdict: what became of it.
        reason: why, in the gate's words; the error of one that failed.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and the history lacks one retraining"

    given: Given
    run: str
    model: str
    started: UtcTime
    updated: UtcTime
    ended: UtcTime | None = None
    starts: int = 1
    step: str = ""
    before: Photos | None = None
    after: Photos | None = None
    steps: int = 0
    cost: Cost = Cost()
    registered: str | None = None
    against: str | None = None
    verdict: Verdict = Verdict.RUNNING
    reason: str = ""

    @property
    def photos_added(self) -> int | None:
        """The number of photos that it added to the dataset; None before it has."""
        if self.after is None:
            return None
        return self.after.count - (self.before.count if self.before else 0)


@dataclass(frozen=True)
class Retrainings:
    """The records of one model's retrainings.

    Every method raises UserError if the store fails or a record in it is damaged.
    """

    store: Store

    def all(self) -> list[Retraining]:
        """Returns all records, the newest start first."""
        names = self.store.names(_FOLDER)
        found = [
            read_typed(Retraining, self.store.read(name), f"{self.store.location}/{name}")
            for name in names
            if name.endswith(".json")
        ]
        return sorted(found, key=lambda record: record.started, reverse=True)

    def save(self, record: Retraining) -> None:
        """Writes a record, in place of an earlier one of the same inputs."""
        self.store.write(f"{_FOLDER}{record.given.digest[:32]}.json", to_json(record))


def model_store(config: Config) -> Store:
    """Returns what the retrainings of `mlflow.model` share: their records, and whose turn it is."""
    assert config.mlflow.model is not None
    return store_of(config, config.mlflow.model)


def store_of(config: Config, model: str) -> Store:
    """Returns what the retrainings of one model share, see `model_store`."""
    place = f"{config.retrain.records.rstrip('/')}/{_MODEL}{model}"
    return open_store(place, policy=config.stream.policy)


def models_with_records(config: Config) -> list[str]:
    """Returns the models that have records in `retrain.records`.

    Raises:
        UserError: the store fails.
    """
    store = open_store(config.retrain.records, policy=config.stream.policy)
    found = (name.partition("/") for name in store.names(_MODEL))
    return sorted(
        {first.removeprefix(_MODEL) for first, _, rest in found if rest.startswith(_FOLDER)}
    )


def given(config: Config, champion: str | None) -> Given:
    """Returns the inputs of the retraining that a configuration describes.

    It lists the photos, and reads none.

    Raises:
        UserError: the source cannot be listed.
    """
    settings = to_dict(config)
    del settings["action"]
    for name in _FREE:
        del settings["retrain"][name]
    photos = inputs.of_shard(config)["source"]
    return Given(photos, digest(settings), git_commit(), champion)


def photos_of(config: Config) -> Photos | None:
    """Returns the dataset at `data`; None if there is none.

    Raises:
        UserError: its manifest is damaged.
    """
    if not dataset_exists(config.data, config.stream):
        return None
    root, name = split_location(absolute_location(config.data))
    manifest = Manifest.load(open_store(root, policy=config.stream.policy), name)
    photos = {photo for shard in manifest.shards for photo in shard.photos}
    return Photos(manifest.digest, len(photos))


def show(config: Config) -> None:
    """Prints all retrainings of `mlflow.model`, the newest first.

    Raises:
        UserError: the records cannot be read.
    """
    store = model_store(config)
    found = Retrainings(store).all()
    if not found:
        print(f"{config.mlflow.model} has had no retraining yet: {store.location} has no record.")
        return
    print("\n".join(table(found, time.time())))


def table(records: Sequence[Retraining], now: float) -> list[str]:
    """Returns a line for each record below a line of titles.

    Args:
        now: the time, in seconds since 1970. A record that says `running`, and was not written for
            some time, is one of a job that was killed.
    """
    titles = (
        "started", "verdict", "run", "photos", "steps", "hours", "GPU hours", "version", "champion",
        "reason",
    )  # fmt: skip
    return aligned([titles, *(_row(record, now) for record in records)])


def _row(record: Retraining, now: float) -> tuple[str, ...]:
    added = record.photos_added
    cells = (
        record.started,
        str(verdict_at(record, now)),
        record.run,
        "" if added is None else f"{added:+d}",
        str(record.steps),
        hours(record.cost.wall_hours),
        hours(record.cost.gpu_hours),
        record.registered or "",
        record.against or "",
        record.reason or f"at {record.step}",
    )
    return tuple(map(printable, cells))


def verdict_at(record: Retraining, now: float) -> Verdict:
    """Returns a record's verdict; INTERRUPTED for one whose job has not written it for long."""
    silent = record.updated < utc(now - SILENT_S)
    return Verdict.INTERRUPTED if record.verdict is Verdict.RUNNING and silent else record.verdict


def hours(number: float) -> str:
    """Returns a number of hours as people read it."""
    digits = 1 if number >= 10 else 3
    return f"{number:.{digits}f}".rstrip("0").rstrip(".")
