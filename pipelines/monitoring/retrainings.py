"""Reads the records of retrainings as metrics."""

from collections import Counter
from collections.abc import Sequence

from prometheus_client.core import GaugeMetricFamily

from pipelines.config.schema import Config
from pipelines.retrain.history import (
    DONE,
    Retraining,
    Retrainings,
    Verdict,
    models_with_records,
    store_of,
    verdict_at,
)
from pipelines.storage.clock import from_utc

#: The names of the metrics, and what they are. Each has the label `model`.
METRICS = {
    "srmill_retrainings": "retrainings by what became of them; label verdict",
    "srmill_retraining_first_start_timestamp_seconds": "start of the oldest retraining, in seconds "
    "since 1970",
    "srmill_retraining_last_start_timestamp_seconds": "first start of the newest retraining, in "
    "seconds since 1970",
    "srmill_retraining_last_success_timestamp_seconds": "end of the newest retraining that did its "
    "work, in seconds since 1970",
    "srmill_retraining_failed": "1 if the newest retraining failed, was interrupted or was stopped "
    "by its budget, else 0",
    "srmill_retraining_refused_in_a_row": "newest retrainings, one after another, that the gate "
    "refused",
    "srmill_retraining_cost_hours": "hours of all retrainings; label kind: wall, gpu or cpu",
    "srmill_retraining_last_cost_hours": "hours of the newest retraining that registered a "
    "version; label kind",
}
_OWN = {
    "srmill_retrainings": ["verdict"],
    "srmill_retraining_cost_hours": ["kind"],
    "srmill_retraining_last_cost_hours": ["kind"],
}
_REGISTERED = (Verdict.PROMOTED, Verdict.REFUSED, Verdict.REGISTERED)
_FAILED = (Verdict.FAILED, Verdict.INTERRUPTED, Verdict.STOPPED)


def retrainings(config: Config, now: float) -> list[GaugeMetricFamily]:
    """Returns what became of the retrainings in `retrain.records`, of every model.

    Args:
        now: the time, in seconds since 1970.

    Raises:
        UserError: the store fails, or a record in it is damaged.
    """
    families = {
        name: GaugeMetricFamily(name, text, labels=["model", *_OWN.get(name, [])])
        for name, text in METRICS.items()
    }
    for model in models_with_records(config):
        records = Retrainings(store_of(config, model)).all()
        for name, labels, value in _values(records, now):
            families[name].add_metric([model, *labels], value)
    return list(families.values())


def _values(records: Sequence[Retraining], now: float) -> list[tuple[str, tuple[str, ...], float]]:
    """Returns name, labels and value of each metric of a model.

    Args:
        records: its retrainings, the newest start first.
    """
    verdicts = [verdict_at(record, now) for record in records]
    counts = Counter(verdicts)
    values: list[tuple[str, tuple[str, ...], float]] = [
        ("srmill_retrainings", (str(verdict),), counts[verdict]) for verdict in Verdict
    ]
    newest, latest = records[0], verdicts[0]
    values += [
        ("srmill_retraining_first_start_timestamp_seconds", (), from_utc(records[-1].started)),
        ("srmill_retraining_last_start_timestamp_seconds", (), from_utc(newest.started)),
        ("srmill_retraining_failed", (), float(latest in _FAILED)),
        ("srmill_retraining_refused_in_a_row", (), _refused_in_a_row(verdicts)),
    ]
    ends = [r.ended for r, v in zip(records, verdicts, strict=True) if v in DONE and r.ended]
    if ends:
        last = max(map(from_utc, ends))
        values.append(("srmill_retraining_last_success_timestamp_seconds", (), last))
    for kind in ("wall", "gpu", "cpu"):
        spent = [float(getattr(record.cost, f"{kind}_hours")) for record in records]
        values.append(("srmill_retraining_cost_hours", (kind,), sum(spent)))
        whole = [hours for hours, v in zip(spent, verdicts, strict=True) if v in _REGISTERED]
        if whole:
            values.append(("srmill_retraining_last_cost_hours", (kind,), whole[0]))
    return values


def _refused_in_a_row(verdicts: Sequence[Verdict]) -> int:
    """Returns how many of the newest retrainings that reached the gate were refused by it."""
    judged = [v for v in verdicts if v in (Verdict.PROMOTED, Verdict.REFUSED)]
    accepted = [number for number, verdict in enumerate(judged) if verdict is Verdict.PROMOTED]
    return accepted[0] if accepted else len(judged)
