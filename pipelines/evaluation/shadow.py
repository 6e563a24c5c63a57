"""Measures a model on fresh photos at each tick of a schedule, so that drift is seen early.

A tick measures a part of a few dozen photos, so it works in the job's own process, without Ray.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch

from pipelines import tracking
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.data.sources.entries import printable
from pipelines.data.sources.find import as_list
from pipelines.errors import UserError, listing
from pipelines.evaluation.methods import Method, check_method, open_method
from pipelines.evaluation.shadow_history import (
    PAGE,
    History,
    ShadowRecord,
    judged,
    sentence,
)
from pipelines.evaluation.shadow_page import render
from pipelines.evaluation.shadow_photos import Fresh, find_fresh, measure_photos
from pipelines.evaluation.side_by_side import subject_of
from pipelines.models.load import champion
from pipelines.notify import Event, choose_channels, deliver, make_notification, people
from pipelines.storage.paths import absolute_location
from pipelines.storage.store import check_name, open_store
from srmodels.latency import num_threads
from srmodels.metrics.suite import METRICS, Score

_NIQE = METRICS["niqe"]
#: The metric in MLflow that counts the quantities that drifted at a tick.
_DRIFT = "shadow/drift"


def plan(config: Config) -> str:
    """Says in words what would be measured.

    Raises:
        UserError: the source, the model or the history is unusable.
    """
    history, reference, told_to = _history(config), _reference(config), people(config.notify)
    check_method(reference, config.stream.policy)
    records = history.read()
    fresh = find_fresh(config, _source(config), records)
    count = min(len(fresh.new), config.shadow.num_photos)
    return (
        f"measure {reference} on {count} of {len(fresh.new)} new photos "
        f"({fresh.num_files} in all) of {listing(as_list(_source(config)))}, and compare with the "
        f"{len(records)} ticks in {history.store.location}"
        f"{f'; drift is told {told_to}' if told_to else ''}"
    )


def run(config: Config) -> str:
    """Measures the photos that no earlier tick has seen, writes their record, the page and MLflow's
    metrics, and says whether there is drift; returns the page's location.

    Raises:
        UserError: the source, the model, the history or NIQE's weights are unusable, or the MLflow
            server does not answer.
    """
    history, source = _history(config), _source(config)
    page, records = f"{history.store.location}/{PAGE}", history.read()
    fresh = find_fresh(config, source, records)
    if not fresh.new:
        print(
            f"Nothing to do: earlier ticks have seen all {fresh.num_files} photos of "
            f"{listing(as_list(source))}, see {page}."
        )
        return page
    client = tracking.connect(config.mlflow)
    method = open_method(_reference(config), config)
    record = _tick(config, method, _niqe(), fresh, records)
    history.add(record)
    if record.drifted:
        told = sentence(record, config.shadow.min_ticks)
        news = make_notification(config, Event.DRIFT, told, model=_name(_reference(config)))
        deliver(news, choose_channels(config.notify))
    records = history.read()  # with those that others have added meanwhile
    html = render(records, config.shadow.min_ticks)
    history.store.write(PAGE, html.encode())
    print(sentence(record, config.shadow.min_ticks))
    _log(client, config, records, html)
    print(f"Report: {page}")
    return page


def _history(config: Config) -> History:
    """Returns the history of the model's name: all its versions have one."""
    name = check_name(_name(_reference(config)))
    folder = absolute_location(config.output or "work/shadow").rstrip("/")
    return History(open_store(f"{folder}/{name}", policy=config.stream.policy))


def _reference(config: Config) -> ModelReference:
    """Returns `model`, else the recipe's champion."""
    return ModelReference.parse(config.model) if config.model else champion(config.mlflow)


def _name(reference: ModelReference) -> str:
    return reference.name if reference.kind is Kind.REGISTRY else reference.slug


def _source(config: Config) -> str | list[str]:
    source: str | list[str] | None = config.source
    if source is None:
        raise UserError("a shadow report needs fresh photos: set source= to a folder or s3://….")
    return source


def _niqe() -> Score:
    try:
        return _NIQE.create(0)
    except ValueError as error:
        raise UserError(str(error)) from None


def _tick(
    config: Config, method: Method, niqe: Score, fresh: Fresh, earlier: list[ShadowRecord]
) -> ShadowRecord:
    torch.set_num_threads(num_threads())
    method.threads = num_threads()
    drawn = fresh.drawn(config.shadow.num_photos, config.seed)
    figures = measure_photos(config, method, niqe, drawn)
    now = ShadowRecord(
        time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        source=printable(listing(as_list(_source(config)))),
        protocol=f"parts of {config.shadow.crop} px; NIQE: {_NIQE.protocol}",
        model=subject_of(method),
        identity=method.identity,
        new=sorted(fresh.new),
        figures=figures,
    )
    return replace(now, figures=judged(figures, now, earlier, config.shadow.min_ticks))


def _log(client: Any, config: Config, records: list[ShadowRecord], html: str) -> None:
    """Logs the figures of every tick that MLflow does not have yet: an earlier job may have ended
    before it came to that."""
    from mlflow.entities import Metric

    reference = _reference(config)
    name = tracking.allowed(f"shadow-{_name(reference)}")
    run_id = tracking.open_run(client, config, name, {"srmill.model": str(reference)})
    with tracking.active_run(client, run_id):
        known = {metric.timestamp for metric in client.get_metric_history(run_id, _DRIFT)}
        for step, record in enumerate(records):
            when = int(datetime.fromisoformat(record.time).timestamp() * 1000)
            if when not in known:
                values = {f"shadow/{name}": found.mean for name, found in record.figures.items()}
                values |= {_DRIFT: float(len(record.drifted))}
                metrics = [Metric(name, value, when, step) for name, value in values.items()]
                client.log_batch(run_id, metrics=metrics)
        client.log_text(run_id, html, PAGE)
