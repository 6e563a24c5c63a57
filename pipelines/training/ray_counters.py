"""Counts for Prometheus, through Ray's agent on the node, what a rank reads and what fails."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pipelines.storage.retries import failures
from pipelines.training.ray_recorder import LABELS, labels_of
from pipelines.training.stage_run import StageRun

#: The names that Prometheus reads, without Ray's prefix, and what they are.
COUNTERS = {
    "srmill_data_fetched_bytes_total": "bytes of shards that ranks fetched from s3://",
    "srmill_data_fetches_total": "shards that ranks fetched from s3://",
    "srmill_data_cache_hits_total": "shards that were in the cache of the node when they were due",
    "srmill_failed_attempts_total": "attempts of ranks to reach S3 or MLflow that failed",
}
#: Seconds between two looks: also a rank that waits for a server must tell of it.
PERIOD_S = 10.0


@contextmanager
def counting(run: StageRun) -> Iterator[None]:
    """Tells Ray, during the block, what this rank has counted: every few seconds, and at its end.

    Ray's agent keeps counters after the end of a process.
    """
    with telling(labels_of(run), lambda: _counts(run), PERIOD_S):
        yield


@contextmanager
def telling(
    labels: Mapping[str, str], read: Callable[[], Mapping[str, int]], period_s: float
) -> Iterator[None]:
    """Tells Ray during the block what `read` returns: a total for some names of `COUNTERS`."""
    from ray.util.metrics import Counter

    # Ray adds the end of a name itself.
    counters = {
        name: Counter(name.removesuffix("_total"), text, tag_keys=LABELS)
        for name, text in COUNTERS.items()
    }
    told = dict.fromkeys(COUNTERS, 0)
    over = threading.Event()

    def tell() -> None:
        for name, total in read().items():
            if total > told[name]:
                counters[name].inc(total - told[name], dict(labels))
                told[name] = total

    def keep_telling() -> None:
        while not over.wait(period_s):
            tell()

    thread = threading.Thread(target=keep_telling, name="counters", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tell()


def _counts(run: StageRun) -> dict[str, int]:
    data = {f"srmill_data_{name}_total": count for name, count in run.dataset.counts().items()}
    return data | {"srmill_failed_attempts_total": failures()}
