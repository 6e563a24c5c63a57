"""Measures a model against bicubic and others, on the validation split or on benchmark sets."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation.benchmarks import (
    VALIDATION,
    Benchmark,
    find_folder,
    open_benchmark,
    parse_names,
    set_name,
)
from pipelines.evaluation.latency import machine, measure_costs
from pipelines.evaluation.measure import measure
from pipelines.evaluation.methods import (
    BICUBIC,
    Method,
    ModelMethod,
    check_method,
    is_method,
    open_method,
)
from pipelines.evaluation.pictures import encode, enlarge, montage, most_detailed
from pipelines.evaluation.report import Example, loss_curves, render
from pipelines.evaluation.results import IMAGES, RESULTS, counted, rival, summarise, to_csv
from pipelines.evaluation.sets import measure_sets
from pipelines.models.load import absolute, at_precision, champion, load_model
from pipelines.storage.digests import digest
from pipelines.storage.files import new_directory, read_json
from pipelines.storage.paths import absolute_location, resolve
from srmodels.metrics.fid import FID
from srmodels.metrics.suite import METRICS, SET_METRICS, AnyMetric, Metric, SetMetric

T = TypeVar("T")

REPORT = "report.html"
#: Settings that change the report, not the scores.
_SHOWN = ("num_pictures", "latency_sizes", "latency_runs")
#: Metrics of `evaluate.metrics=auto`, those that need weights only where these are at hand.
_AUTO = ("psnr_y", "ssim_y", "lpips_alex", "niqe")


def model_reference(config: Config) -> str:
    """`model`, else the recipe's champion."""
    return absolute(config.model or champion(config))


def slug(reference: str) -> str:
    """A reference as a folder's name; a path gives its last part."""
    if reference.startswith("models:/"):
        return reference.removeprefix("models:/").replace("/", "_")
    return Path(reference.removeprefix("run:")).name


def output_directory(folder: str | None, reference: str, benchmark: Any) -> Path:
    """Where the results of a model on these benchmark sets go: in `folder`, by their names."""
    name, sets = slug(reference), parse_names(benchmark)
    if sets != [VALIDATION]:
        name = "-".join([name, *(set_name(location) for location in sets)])
    return resolve(folder or "work/evaluate") / name


def _output(config: Config) -> Path:
    return output_directory(config.output, model_reference(config), config.benchmark)


def plan(config: Config) -> str:
    """What would be measured, in words. Raises UserError for what cannot be."""
    metrics, left_out = choose_metrics(config)
    for reference in (model_reference(config), *config.evaluate.compare):
        check_method(reference)
    names = []
    for name in parse_names(config.benchmark):
        if name == VALIDATION:
            names.append(f"the validation split of {absolute_location(config.data)}")
        else:
            names.append(str(find_folder(name)))
    return (
        f"measure {model_reference(config)} against {', '.join(_compared(config))} on "
        f"{' and '.join(names)} by {', '.join(metrics)} and write the report to "
        f"{_output(config) / REPORT}{f'; {left_out}' if left_out else ''}"
    )


def choose_metrics(config: Config) -> tuple[dict[str, AnyMetric], str | None]:
    """The metrics by the label that their results are kept under, and what is left out, if any is.

    Raises:
        UserError: an unknown metric, one twice, or none of single images.
    """
    wanted, note = config.evaluate.metrics, None
    if wanted == "auto":
        try:
            wanted = [name for name in _AUTO if METRICS[name].is_at_hand()]
        except ValueError as error:
            raise UserError(str(error)) from None
        if missing := [METRICS[name].title for name in _AUTO if name not in wanted]:
            note = (
                f"not measured for want of weights: {', '.join(missing)} (name them in "
                f"evaluate.metrics to get these from the web, or set $SRMILL_WEIGHTS)"
            )
    names = [str(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
    known: dict[str, AnyMetric] = {**METRICS, **SET_METRICS}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"there is no metric '{unknown[0]}': use auto, or {', '.join(known)}.")
    if not set(names) & METRICS.keys() or len(set(names)) < len(names):
        raise UserError("evaluate.metrics names no metric of single images, or one twice.")
    return {known[name].label(config.crop_border): known[name] for name in names}, note


def run(config: Config) -> Path:
    """Measures, writes results and report, logs them to MLflow; returns the report's path.

    Raises:
        UserError: no such model, method, metric or benchmark set, no image that can be measured,
            or the MLflow server does not answer.
    """
    metrics, left_out = choose_metrics(config)
    settings = config.evaluate
    benchmarks = [open_benchmark(name, config) for name in parse_names(config.benchmark)]
    client = tracking.connect(config)
    reference = model_reference(config)
    model = at_precision(load_model(reference, config), config.export.weights)
    others = [open_method(name, config) for name in _compared(config)]
    # The model itself comes last: what it is compared with may name it too.
    methods = [*(m for m in others if m.reference != reference), ModelMethod(model)]
    _check_scales(methods, config)
    output = _output(config)
    protocols = {label: metric.protocol for label, metric in metrics.items()}
    set_scores = _created(
        {label: m.create for label, m in metrics.items() if isinstance(m, SetMetric)}
    )
    identity = _identity(config, benchmarks, methods, protocols, set_scores)
    if (output / RESULTS).exists() and read_json(output / RESULTS).get("identity") == identity:
        print(f"Nothing to do: {reference} is measured already, see {output / REPORT}.")
        return output / REPORT

    if left_out:
        print(f"Note: {left_out}.", flush=True)
    border = config.crop_border
    scores = _created(
        {label: partial(m.create, border) for label, m in metrics.items() if isinstance(m, Metric)}
    )
    journal = output.parent / ".measured"
    of_images = {label: protocols[label] for label in scores}
    found, failures = measure(benchmarks, methods, scores, of_images, journal)
    if not found:
        why = f": {failures[0].key}: {failures[0].reason}" if failures else ""
        raise UserError(f"no image of {', '.join(b.name for b in benchmarks)} can be measured{why}")
    of_sets = measure_sets(benchmarks, methods, set_scores, protocols, found, journal)
    results = summarise(config, model, benchmarks, methods, metrics, found, of_sets, failures)
    results |= {"identity": identity, "date": time.strftime("%Y-%m-%d"), "machine": machine()}
    results["latency_runs"] = settings.latency_runs
    costs = measure_costs(methods, settings.latency_sizes, settings.latency_runs)
    results["costs"] = {name: asdict(cost) for name, cost in costs.items()}
    chosen = choose_examples(results, settings.num_pictures)
    examples = [_draw(config, benchmarks, methods, *example) for example in chosen]
    report = render(results, found, examples, loss_curves(client, model.config))
    with new_directory(output) as directory:
        (directory / REPORT).write_text(report)
        (directory / IMAGES).write_text(to_csv(found, list(scores), results["titles"]))
        (directory / "pictures").mkdir()
        for number, example in enumerate(examples, 1):
            titles = {results["titles"].get(k, k): image for k, image in example.pictures.items()}
            path = directory / "pictures" / f"{example.benchmark}-{number}.png"
            path.write_bytes(encode(montage(titles), "PNG"))
        # In their order, which sorted keys would lose.
        (directory / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
        # Before the results are in place: a rerun after a failure must not find them done.
        _log(client, config, results, directory)
    _print(results)
    print(f"Report: {output / REPORT}")
    return output / REPORT


def _compared(config: Config) -> list[str]:
    """References of what the model is compared with; bicubic is always the first."""
    others = [name if is_method(name) else absolute(name) for name in config.evaluate.compare]
    return list(dict.fromkeys([BICUBIC, *others]))


def _check_scales(methods: Sequence[Method], config: Config) -> None:
    for method in methods:
        if method.scale != config.networks.scale:
            raise UserError(
                f"'{method.reference}' enlarges by {method.scale}, the recipe by "
                f"{config.networks.scale}: set recipe= to the model's own."
            )


def _created(makers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    try:
        return {label: create() for label, create in makers.items()}
    except ValueError as error:
        raise UserError(str(error)) from None


def _identity(
    config: Config,
    benchmarks: Sequence[Benchmark],
    methods: Sequence[Method],
    protocols: Mapping[str, str],
    set_scores: Mapping[str, FID],
) -> str:
    return digest(
        {
            "benchmarks": {b.name: b.identity for b in benchmarks},
            "methods": {m.reference: m.identity for m in methods},
            "metrics": dict(protocols),
            "networks": {label: score.identity for label, score in set_scores.items()},
            "shown": [getattr(config.evaluate, name) for name in _SHOWN],
        }
    )


def choose_examples(results: dict[str, Any], count: int) -> list[tuple[str, str, str]]:
    """(benchmark, key, why) of images to show: by turns those on which the model does best and
    worst beside its rival, over the benchmark sets, by the last metric that has a reference."""
    other, metrics = rival(results), results["metrics"]
    label = [name for name, metric in metrics.items() if metric["has_reference"]][-1:]
    chosen: list[tuple[str, str, str]] = []
    for place in range(count):
        for benchmark, facts in results["benchmarks"].items():
            comparison = facts["comparisons"].get(other, {}).get(label[0]) if label else None
            if comparison is None:
                continue
            way = "worst" if place % 2 else "best"
            key = dict(enumerate(comparison[way])).get(place // 2)
            title = f"{way} beside {results['titles'][other]} by {metrics[label[0]]['title']}"
            if key is not None and (benchmark, key) not in [entry[:2] for entry in chosen]:
                chosen.append((benchmark, key, title))
    return chosen[:count]


def _draw(
    config: Config,
    benchmarks: Sequence[Benchmark],
    methods: Sequence[Method],
    name: str,
    key: str,
    title: str,
) -> Example:
    """The same part of an image, where HR has most detail, as every method shows it."""
    benchmark = next(b for b in benchmarks if b.name == name)
    lr, hr = benchmark.load(key)
    shown = {"LR": enlarge(lr, config.networks.scale, Image.Resampling.NEAREST)}
    shown |= {method.reference: method(lr) for method in methods} | {"HR": hr}
    area = most_detailed(hr)
    return Example(name, key, title, {kind: image[area] for kind, image in shown.items()})


def _log(client: Any, config: Config, results: dict[str, Any], output: Path) -> None:
    name = f"{config.run.name}-evaluate"
    sets = results["benchmarks"].items()
    identities = {_mlflow_name(f"srmill.{n}"): facts["identity"] for n, facts in sets}
    run_id = tracking.new_run(client, config, name, identities)
    with tracking.active_run(client, run_id):
        for benchmark, facts in sets:
            for method, values in facts["summary"].items():
                title = results["titles"][method]
                for metric, value in values.items():
                    if value is not None:
                        label = _mlflow_name(f"{benchmark}/{title}/{metric}")
                        client.log_metric(run_id, label, value)
        shown = {"model": results["model"], "metrics": results["metrics"]}
        tracking.log_params(client, run_id, shown)
        client.log_artifacts(run_id, str(output))


def _mlflow_name(name: str) -> str:
    """MLflow takes few characters in names of metrics and tags."""
    return re.sub(r"[^\w\-./ ]", ".", name)


def _print(results: dict[str, Any]) -> None:
    for benchmark, facts in results["benchmarks"].items():
        print(f"{benchmark}: {counted(facts)}")
        for method, values in facts["summary"].items():
            scores = "  ".join(
                f"{label} {value:.4f}" for label, value in values.items() if value is not None
            )
            print(f"  {method:<40} {scores}")
        for failure in facts["failures"]:
            print(f"  not measured: {failure['key']}: {failure['reason']}")
