"""Measures a model against bicubic and others, on the validation split or on benchmark sets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from pipelines import tracking
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config, EvaluateConfig
from pipelines.data.set_files import VALIDATION, parse_names, title_of, where_is
from pipelines.errors import UserError, listing
from pipelines.evaluation.frozen import evaluated_names, frozen_names, open_set
from pipelines.evaluation.latency import measure_costs
from pipelines.evaluation.measure import measure
from pipelines.evaluation.methods import (
    BICUBIC,
    Method,
    ModelMethod,
    check_method,
    open_method,
)
from pipelines.evaluation.pictures import encode, enlarge, montage, most_detailed
from pipelines.evaluation.report import Example, loss_curves, render
from pipelines.evaluation.results import (
    PICTURES,
    REPORT,
    RESULTS,
    EvaluationResults,
    counted,
    owned,
    rival,
    to_csv,
)
from pipelines.evaluation.sets import measure_sets
from pipelines.evaluation.summary import Measurements, Subject, summarise
from pipelines.models.bundle import IMAGES
from pipelines.models.load import at_precision, champion, load_model
from pipelines.storage.digests import digest
from pipelines.storage.folders import new_folder
from pipelines.storage.ownership import check_replaceable
from pipelines.storage.paths import absolute_location, resolve
from pipelines.storage.store import LocalStore, Store, open_store
from pipelines.storage.typed import read_typed, to_json
from srmodels.metrics.fid import FID
from srmodels.metrics.suite import METRICS, SET_METRICS, AnyMetric, Metric, SetMetric

T = TypeVar("T")

#: Settings that change the report, not the scores.
_SHOWN = ("num_pictures", "latency_sizes", "latency_runs")
#: Metrics of `evaluate.metrics=auto`, those that need weights only where these are at hand.
_AUTO = ("psnr_y", "ssim_y", "lpips_alex", "niqe")


def output_location(folder: str | None, reference: ModelReference, benchmark: Any) -> str:
    """Returns where the results of a model on these benchmark sets go: a folder in `folder`.

    Args:
        folder: the directory or `s3://` prefix of all results; None stands for work/evaluate.
        reference: the reference of the model.
        benchmark: the sets, as `parse_names` takes them.
    """
    name, sets = reference.slug, parse_names(benchmark)
    if sets != [VALIDATION]:
        name = "-".join([name, *(title_of(location) for location in sets)])
    return f"{absolute_location(folder or 'work/evaluate').rstrip('/')}/{name}"


def _output(config: Config) -> Store:
    location = output_location(config.output, wanted(config), config.benchmark)
    return open_store(location, policy=config.stream.policy)


def _journal(config: Config, output: Store) -> Path:
    """Returns the local folder that keeps scores as they are measured.

    It is beside the results, so that the same command finds it. Object storage cannot add a line
    to a file, so with results in s3:// it is in `run.scratch`: on another machine, an interrupted
    job measures again.
    """
    if isinstance(output, LocalStore):
        return output.directory.parent / ".measured"
    return resolve(config.run.scratch) / "measured"


def plan(config: Config) -> str:
    """Says in words what would be measured.

    Raises:
        UserError: a model, method, metric or benchmark set does not exist, or files of somebody
            else are where the results go.
    """
    _check_output(_output(config))
    metrics, left_out = choose_metrics(config.evaluate, config.crop_border)
    for reference in (wanted(config), *_compared(config.evaluate)):
        check_method(reference, config.stream.policy)
    names = [_told(name, config) for name in evaluated_names(config)]
    return (
        f"measure {wanted(config)} against {listing(_compared(config.evaluate))} on "
        f"{listing(names, ' and ')} by {listing(metrics)} and write the report to "
        f"{_output(config).location}/{REPORT}{f'; {left_out}' if left_out else ''}"
    )


def _told(name: str, config: Config) -> str:
    """Returns what a benchmark set is, and the digest by which a recipe pins one of the gate's."""
    if name == VALIDATION:
        return f"the validation split of {absolute_location(config.data)}"
    if name not in frozen_names(config.gate):
        return where_is(name)
    return f"{where_is(name)} (gate.digest={open_set(name, config).identity})"


def choose_metrics(
    settings: EvaluateConfig, crop_border: int
) -> tuple[dict[str, AnyMetric], str | None]:
    """Returns the metrics by label, and a note on those that are left out, if there are any.

    Args:
        crop_border: width of the border that some metrics leave out; their labels name it.

    Raises:
        UserError: a metric is unknown or named twice, or no metric judges single images.
    """
    wanted, note = settings.metrics, None
    if wanted == "auto":
        try:
            wanted = [name for name in _AUTO if METRICS[name].is_at_hand()]
        except ValueError as error:
            raise UserError(str(error)) from None
        if missing := [METRICS[name].title for name in _AUTO if name not in wanted]:
            note = (
                f"not measured for want of weights: {listing(missing)} (name them in "
                f"evaluate.metrics to get these from the web, or set $SRMILL_WEIGHTS)"
            )
    names = [str(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
    known: dict[str, AnyMetric] = {**METRICS, **SET_METRICS}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"there is no metric '{unknown[0]}': use auto, or {listing(known)}.")
    if not set(names) & METRICS.keys() or len(set(names)) < len(names):
        raise UserError(
            "evaluate.metrics names no metric of single images, or one twice: name each once, "
            f"and at least one of {listing(METRICS)}."
        )
    return {known[name].label(crop_border): known[name] for name in names}, note


def run(config: Config) -> str:
    """Measures, writes results and report, logs them to MLflow; returns the report's location.

    Raises:
        UserError: a model, method, metric or benchmark set does not exist, files of somebody else
            are where the results go, no image can be measured, or the MLflow server does not
            answer.
    """
    _check_output(_output(config))
    metrics, left_out = choose_metrics(config.evaluate, config.crop_border)
    benchmarks = [open_set(name, config) for name in evaluated_names(config)]
    client = tracking.connect(config.mlflow)
    reference = wanted(config)
    model = at_precision(load_model(reference, config), config.export.weights)
    others = [open_method(name, config) for name in _compared(config.evaluate)]
    # The model itself comes last: what it is compared with may name it too.
    methods = [*(m for m in others if m.reference != str(reference)), ModelMethod(model)]
    _check_scales(methods, config.networks.scale)
    subject = Subject(model, methods, benchmarks, metrics, config.crop_border)
    set_scores = _created(
        {label: m.create for label, m in metrics.items() if isinstance(m, SetMetric)}
    )
    identity = _identity(config.evaluate, subject, set_scores)
    output = _output(config)
    where = f"{output.location}/{REPORT}"
    if _is_measured(output, identity):
        print(f"Nothing to do: {reference} is measured already, see {where}.")
        return where

    if left_out:
        print(f"Note: {left_out}.", flush=True)
    measured = _measure(config.evaluate, subject, set_scores, _journal(config, output))
    results = summarise(config.recipe, identity, subject, measured)
    chosen = choose_examples(results, config.evaluate.num_pictures)
    examples = [_draw(subject, *example) for example in chosen]
    report = render(results, measured.images, examples, loss_curves(client, model.config))
    with new_folder(output, RESULTS, lambda: _check_output(output)) as directory:
        (directory / REPORT).write_text(report)
        labels = [label for label, metric in metrics.items() if isinstance(metric, Metric)]
        (directory / IMAGES).write_text(to_csv(measured.images, labels, results.titles))
        _write_pictures(examples, results.titles, directory / PICTURES)
        (directory / RESULTS).write_bytes(to_json(results))
        # Before the results are in place: a rerun after a failure must not find them done.
        _log(client, config, results, directory)
    _print(results)
    print(f"Report: {where}")
    return where


def _check_output(output: Store) -> None:
    check_replaceable(output, RESULTS, owned)


def _is_measured(output: Store, identity: str) -> bool:
    """Returns True if a folder holds the results of exactly these measurements."""
    if output.size(RESULTS) is None:
        return False
    data, where = output.read(RESULTS), f"{output.location}/{RESULTS}"
    try:
        return read_typed(EvaluationResults, data, where).identity == identity
    except UserError as error:
        print(f"Evaluating anew, since {error}")
        return False


def _measure(
    settings: EvaluateConfig, subject: Subject, set_scores: Mapping[str, FID], journal: Path
) -> Measurements:
    """Measures quality and costs. Scores that an earlier job left in `journal` are used again.

    Raises:
        UserError: no image can be measured.
    """
    benchmarks, methods, protocols = subject.benchmarks, subject.methods, subject.protocols
    scores = _created(
        {
            label: partial(metric.create, subject.crop_border)
            for label, metric in subject.metrics.items()
            if isinstance(metric, Metric)
        }
    )
    of_images = {label: protocols[label] for label in scores}
    images, failures = measure(benchmarks, methods, scores, of_images, journal)
    if not images:
        why = f": {failures[0].key}: {failures[0].reason}" if failures else ""
        raise UserError(f"no image of {listing(b.name for b in benchmarks)} can be measured{why}")
    of_sets = measure_sets(benchmarks, methods, set_scores, protocols, images, journal)
    costs = measure_costs(methods, settings.latency_sizes, settings.latency_runs)
    return Measurements(images, of_sets, failures, costs, settings.latency_runs)


def wanted(config: Config) -> ModelReference:
    """Returns `model`, else the recipe's champion."""
    return ModelReference.parse(config.model) if config.model else champion(config.mlflow)


def _compared(settings: EvaluateConfig) -> list[ModelReference]:
    """Returns the methods that the model is compared with; bicubic is always the first."""
    return [ModelReference.parse(text) for text in dict.fromkeys([BICUBIC, *settings.compare])]


def _check_scales(methods: Sequence[Method], scale: int) -> None:
    for method in methods:
        if method.scale != scale:
            raise UserError(
                f"'{method.reference}' enlarges by {method.scale}, the recipe by {scale}: set "
                "recipe= to the model's own."
            )


def _created(makers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    try:
        return {label: create() for label, create in makers.items()}
    except ValueError as error:
        raise UserError(str(error)) from None


def _identity(settings: EvaluateConfig, subject: Subject, set_scores: Mapping[str, FID]) -> str:
    return digest(
        {
            "benchmarks": {b.name: b.identity for b in subject.benchmarks},
            "methods": {m.reference: m.identity for m in subject.methods},
            "metrics": subject.protocols,
            "networks": {label: score.identity for label, score in set_scores.items()},
            "shown": [getattr(settings, name) for name in _SHOWN],
        }
    )


def choose_examples(results: EvaluationResults, count: int) -> list[tuple[str, str, str]]:
    """Returns (benchmark, key, why) of each image to show.

    The images are by turns those on which the model does best and worst beside its rival. The
    benchmark sets take turns too. The last metric with a reference decides.
    """
    other, metrics = rival(results), results.metrics
    label = [name for name, metric in metrics.items() if metric.has_reference][-1:]
    chosen: list[tuple[str, str, str]] = []
    for place in range(count):
        for name, benchmark in results.benchmarks.items():
            comparison = benchmark.comparisons.get(other, {}).get(label[0]) if label else None
            if comparison is None:
                continue
            way, keys = ("worst", comparison.worst) if place % 2 else ("best", comparison.best)
            key = dict(enumerate(keys)).get(place // 2)
            title = f"{way} beside {results.titles[other]} by {metrics[label[0]].title}"
            if key is not None and (name, key) not in [entry[:2] for entry in chosen]:
                chosen.append((name, key, title))
    return chosen[:count]


def _draw(subject: Subject, name: str, key: str, title: str) -> Example:
    """Returns the part of an image where HR has most detail, as every method shows it."""
    benchmark = next(b for b in subject.benchmarks if b.name == name)
    lr, hr = benchmark.load(key)
    scale = subject.model.network.scale
    shown = {"LR": enlarge(lr, scale, Image.Resampling.NEAREST)}
    shown |= {method.reference: method(lr) for method in subject.methods} | {"HR": hr}
    area = most_detailed(hr)
    return Example(name, key, title, {kind: image[area] for kind, image in shown.items()})


def _write_pictures(examples: Sequence[Example], titles: Mapping[str, str], folder: Path) -> None:
    folder.mkdir()
    for number, example in enumerate(examples, 1):
        named = {titles.get(kind, kind): image for kind, image in example.pictures.items()}
        path = folder / f"{example.benchmark}-{number}.png"
        path.write_bytes(encode(montage(named), "PNG"))


def _log(client: Any, config: Config, results: EvaluationResults, output: Path) -> None:
    name = f"{config.run.name}-evaluate"
    sets = results.benchmarks.items()
    identities = {tracking.allowed(f"srmill.{n}"): found.identity for n, found in sets}
    run_id = tracking.new_run(client, config, name, identities)
    with tracking.active_run(client, run_id):
        for benchmark, found in sets:
            for method, values in found.summary.items():
                title = results.titles[method]
                for metric, value in values.items():
                    if value is not None:
                        label = tracking.allowed(f"{benchmark}/{title}/{metric}")
                        client.log_metric(run_id, label, value)
        metrics = {label: asdict(metric) for label, metric in results.metrics.items()}
        tracking.log_params(client, run_id, {"model": results.model, "metrics": metrics})
        client.log_artifacts(run_id, str(output))


def _print(results: EvaluationResults) -> None:
    for name, benchmark in results.benchmarks.items():
        print(f"{name}: {counted(benchmark)}")
        for method, values in benchmark.summary.items():
            scores = "  ".join(
                f"{label} {value:.4f}" for label, value in values.items() if value is not None
            )
            print(f"  {method:<40} {scores}")
        for failure in benchmark.failures:
            print(f"  not measured: {failure.key}: {failure.reason}")
